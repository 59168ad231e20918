# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0

"""The frozen encoder: configuration, weights, towers, tokenizer, text features. It and `compat` import open_clip."""
