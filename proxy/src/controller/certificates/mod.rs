//! Certificates: files from the configuration, the local CA, the default certificate.
