//! `baton demo`: the tour; needs nothing installed.
