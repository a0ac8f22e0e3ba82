//! Asks ports of containers without a HEALTHCHECK whether they accept a connection.
