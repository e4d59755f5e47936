"""Evaluation of patch features on dense tasks: semantic segmentation and object detection."""
