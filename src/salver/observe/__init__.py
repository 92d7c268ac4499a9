"""What Salver tells about itself: metrics, logs, later traces."""
