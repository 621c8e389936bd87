"""The structs of include/fewstep.h for ctypes, read from the header itself, so that they cannot lag behind it.

usage: python3 benches/header.py      compares every struct of options with target/release/libfewstep.so"""
import ctypes as C
import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
HEADER, LIBRARY = ROOT / "include/fewstep.h", ROOT / "target/release/libfewstep.so"
NUMBERS = {"uint8_t": C.c_uint8, "char": C.c_char, "int32_t": C.c_int32, "uint32_t": C.c_uint32, "int64_t": C.c_int64, "uint64_t": C.c_uint64, "size_t": C.c_size_t, "float": C.c_float, "double": C.c_double}
# No struct of the library is larger (MAX_SIZE of src/ffi/options.rs).
ROOM = 4096


def structs():
    """Every struct of the header by its name; a type that is not understood ends the program."""
    text = re.sub(r"/\*.*?\*/", "", HEADER.read_text(), flags=re.S)
    sizes = {name: int(value) for name, value in re.findall(r"#define (\w+) (\d+)$", text, flags=re.M)}
    pointers = set(re.findall(r"\(\*(\w+)\)", text))

    def field(line):
        match = re.fullmatch(r"(?:const )?(\w+) (\*?)(\w+)(?:\[(\w+)\])?", " ".join(line.split()))
        kind, star, name, count = match.groups() if match else (None,) * 4
        if star or kind in pointers:
            return name, C.c_void_p
        if kind not in NUMBERS:
            sys.exit(f"{HEADER}: benches/header.py does not understand the field '{line.strip()}'")
        return name, NUMBERS[kind] * (sizes.get(count) or int(count)) if count else NUMBERS[kind]

    bodies = re.findall(r"typedef struct \{(.*?)\} (\w+);", text, flags=re.S)
    return {name: type(name, (C.Structure,), {"_fields_": [field(line) for line in body.split(";") if line.strip()]}) for body, name in bodies}


def defaults(kind, init, check):
    """A struct with its defaults. `init` writes the library's idea of it, so it gets room for any; then both ideas must have the same size."""
    room = C.create_string_buffer(ROOM)
    check(init(room))
    found = C.c_uint32.from_buffer(room).value
    if found != C.sizeof(kind):
        sys.exit(f"{kind.__name__} has {C.sizeof(kind)} bytes in {HEADER} and {found} in the library: build it anew (make lib)")
    return kind.from_buffer_copy(room)


if __name__ == "__main__":
    library, found = C.CDLL(str(LIBRARY)), structs()
    names = [name for name in found if name.endswith("_options")]
    for name in names:
        defaults(found[name], getattr(library, f"{name}_init"), lambda status: status and sys.exit(f"{name}_init: {status}"))
    print(f"{len(found)} structs, {len(names)} of options as the library has them: {', '.join(names)}")
