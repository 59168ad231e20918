# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0

"""Side-by-side comparison of anomalib models on the same references, the same masks and raw scores."""
