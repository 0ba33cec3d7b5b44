"""Models from and for other libraries, without those libraries."""
