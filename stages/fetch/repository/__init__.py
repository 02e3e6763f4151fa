"""A Git repository somebody else wrote, read without ever being checked out."""
