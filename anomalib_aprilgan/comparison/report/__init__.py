# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0

"""Reports of image scores: rates, intervals and tests, as a page and as a PDF."""
