"""What a cache tells of itself: metrics and logs."""
