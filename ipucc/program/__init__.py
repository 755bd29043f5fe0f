"""The program of supersteps: its verifier, its printer, its cycle count, the .ipux reader and writer."""
