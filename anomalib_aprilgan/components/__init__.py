# Copyright (C) 2026 the anomalib-aprilgan authors
# SPDX-License-Identifier: Apache-2.0

"""What anomalib's parts do differently for AprilGan: processors, evaluator, visualizer, export, checkpoints."""
