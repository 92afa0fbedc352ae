"""What `yolo.py` is made of: annotated images, a detector and its training, its detections and how good they are."""
