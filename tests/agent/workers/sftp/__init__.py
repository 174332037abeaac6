"""Tests of the SFTP server: packets in, packets out, real folders behind it."""
