"""The nouns: records, masks, boxes, metrics, weak labels, COCO files, annotation cost."""
