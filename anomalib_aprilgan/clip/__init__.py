# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0

"""The frozen encoder: configuration, weights, towers, tokenizer and text features. The only imports of open_clip."""
