"""An array that has DLPack and nothing else, as PyTorch's tensors, made by hand so that it can have bf16 and lie."""

import ctypes


class _Tensor(ctypes.Structure):
    _fields_ = [
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    ]


class _Managed(ctypes.Structure):
    pass


_Deleter = ctypes.CFUNCTYPE(None, ctypes.POINTER(_Managed))
_Managed._fields_ = [("tensor", _Tensor), ("context", ctypes.c_void_p), ("deleter", _Deleter)]
_new_capsule = ctypes.pythonapi.PyCapsule_New
_new_capsule.restype = ctypes.py_object
_new_capsule.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]

TYPES = {"f32": (2, 32), "f16": (2, 16), "bf16": (4, 16), "f64": (2, 64)}


class Tensor:
    """Lends the memory of a NumPy array."""

    n_taken = n_given_back = 0
    _lent = {}

    def __init__(self, array, dtype, device=1):
        self.array, self.dtype, self.device = array, dtype, device

    def __dlpack_device__(self):
        return self.device, 0

    def __dlpack__(self):
        array, n = self.array, self.array.ndim
        width = array.itemsize
        numbers = ctypes.c_int64 * n
        # Half of the memory is reached through the offset, so that one that is ignored shows.
        offset = 8
        tensor = _Tensor(array.ctypes.data - offset, self.device, 0, n, *TYPES[self.dtype], 1)
        tensor.shape = numbers(*array.shape)
        tensor.strides = None if array.flags.c_contiguous else numbers(*(of // width for of in array.strides))
        tensor.byte_offset = offset
        managed = _Managed(tensor, None, _give_back)
        Tensor.n_taken += 1
        Tensor._lent[ctypes.addressof(managed)] = (managed, array)
        return _new_capsule(ctypes.addressof(managed), b"dltensor", None)


@_Deleter
def _give_back(managed):
    Tensor.n_given_back += 1
    del Tensor._lent[ctypes.addressof(managed.contents)]
