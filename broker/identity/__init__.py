"""PEM bytes → Agent. Knows no grpc."""
