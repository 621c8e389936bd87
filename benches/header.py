"""The structs of include/fewstep.h for ctypes, read from the header itself, so that they cannot lag behind it."""
import ctypes as C
import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
HEADER, LIBRARY = ROOT / "include/fewstep.h", ROOT / "target/release/libfewstep.so"
NUMBERS = {"uint8_t": C.c_uint8, "char": C.c_char, "int32_t": C.c_int32, "uint32_t": C.c_uint32, "int64_t": C.c_int64, "uint64_t": C.c_uint64, "size_t": C.c_size_t, "float": C.c_float, "double": C.c_double}


def structs():
    """Every struct of the header by its name; a type that is not understood ends the program."""
    text = re.sub(r"/\*.*?\*/", "", HEADER.read_text(), flags=re.S)
    sizes = {name: int(value) for name, value in re.findall(r"#define (\w+) (\d+)$", text, flags=re.M)}
    pointers = set(re.findall(r"\(\*(\w+)\)", text))
    numbers = NUMBERS | {name: NUMBERS[kind] for kind, name in re.findall(r"typedef (\w+) (\w+);", text) if kind in NUMBERS}

    def field(line):
        match = re.fullmatch(r"(?:const )?(\w+) ((?:\*(?:const )?)*)(\w+)(?:\[(\w+)\])?", " ".join(line.split()))
        kind, star, name, count = match.groups() if match else (None,) * 4
        if star or kind in pointers:
            return name, C.c_void_p
        if kind not in numbers:
            sys.exit(f"{HEADER}: benches/header.py does not understand the field '{line.strip()}'")
        return name, numbers[kind] * (sizes.get(count) or int(count)) if count else numbers[kind]

    bodies = re.findall(r"typedef struct \{(.*?)\} (\w+);", text, flags=re.S)
    return {name: type(name, (C.Structure,), {"_fields_": [field(line) for line in body.split(";") if line.strip()]}) for body, name in bodies}


def defaults(kind, init, check):
    """A struct with its defaults."""
    options = kind()
    check(init(C.byref(options), C.c_size_t(C.sizeof(kind))))
    return options


if __name__ == "__main__":  # make lint: a header that this cannot read is found before somebody measures
    print(f"{HEADER}: {len(structs())} structs")
