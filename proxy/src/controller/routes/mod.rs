//! From containers and configuration to the route table: a pure function.
