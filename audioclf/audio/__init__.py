"""From bytes to log-mel pictures: numpy only, no torch, no Ray."""
