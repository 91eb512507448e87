"""Images, clips of sound, texts, table rows and tensors: from bytes to arrays."""
