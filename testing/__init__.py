"""The real parts that tests run against, and how to await what they do."""
