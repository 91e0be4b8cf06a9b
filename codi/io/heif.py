def read_heif(source):
    raise NotImplementedError
