//! The Docker watch: a list on every (re)connect, then events.
