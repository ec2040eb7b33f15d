"""The embedded AWS: MiniStack with what it lacks, on loopback, with IAM and TLS on."""
