"""What a Rust repository depends on, brought here without running any of the repository's code."""
