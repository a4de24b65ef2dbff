//! Publishes an image.
