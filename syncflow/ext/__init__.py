"""What joins syncflow to other libraries, one module for each; nothing here is imported by itself."""
