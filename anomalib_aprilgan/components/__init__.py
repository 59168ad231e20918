# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0

"""What anomalib's parts do differently for AprilGan: processors, evaluator, visualizer, export, checkpoints."""

import anomalib.models  # noqa: F401  # first: it imports AprilGan, and so would find a module that imports it half done
