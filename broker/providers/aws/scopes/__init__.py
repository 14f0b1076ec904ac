"""What an `aws` block may say, and the session policy that it becomes."""
