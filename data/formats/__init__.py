"""Labels on disk: coco.py, yolo.py and voc.py each have read() and write(); the other files are what they share."""
