"""What a bundle is: format, manifest, reader, writer."""
