//! The controller from start to stop: reads as a table of contents.
