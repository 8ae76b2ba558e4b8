"""LLVM text in, native object code out.

This file is also the program of the compile workers (`python object_code.py`), which the engine starts when
many kernels are missing: LLVM does not compile in parallel threads of one process. So it imports nothing of
Firepot. A worker reads requests from its standard input and answers on its standard output; both are frames
of a 4-byte status and an 8-byte length followed by that many bytes. A request is the pickled arguments of
`compile_module`; an answer is object code with status 0, or the text of an error with status 1.
"""

from __future__ import annotations

import functools
import pickle
import struct
import sys
from typing import Any, BinaryIO

FRAME = struct.Struct("<IQ")


class CompileError(RuntimeError):
    """LLVM refused a module; the message holds LLVM's words."""


@functools.cache
def target_machine(triple: str, cpu: str, features: str) -> Any:
    """An LLVM target machine that makes position-independent code of the small code model."""
    import llvmlite.binding as llvm

    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    return llvm.Target.from_triple(triple).create_target_machine(
        cpu=cpu, features=features, opt=2, reloc="pic", codemodel="small"
    )


def optimise(text: str, names: dict[str, str], triple: str, cpu: str, features: str, explicit: bool = False) -> Any:
    """Parse, verify and optimise a module, keeping only the functions of `names`, under their new names.

    All other definitions become internal, so that objects of equal inner names can be linked together. The
    pipeline is LLVM's O2 without its vectorisers, and unrolls only the loops marked for it: kernels are
    written as explicit vector code by generators which know better.

    `explicit`: a few of O2's passes suffice (`Kernel.explicit`).
    """
    import llvmlite.binding as llvm

    machine = target_machine(triple, cpu, features)
    try:
        module = llvm.parse_assembly(text, llvm.create_context())
    except RuntimeError as error:
        raise CompileError(f"LLVM cannot parse the module: {error}") from None
    module.triple = triple
    module.data_layout = str(machine.target_data)
    _rename(module, names)
    try:
        module.verify()
    except RuntimeError as error:
        raise CompileError(f"LLVM finds the module invalid: {error}") from None

    options = llvm.create_pipeline_tuning_options(speed_level=2)
    options.loop_vectorization = False
    options.slp_vectorization = False
    options.loop_interleaving = False
    options.loop_unrolling = False
    builder = llvm.create_pass_builder(machine, options)
    passes = _short_pipeline() if explicit else builder.getModulePassManager()
    passes.run(module, builder)
    return module


def _short_pipeline() -> Any:
    """Variables into registers, constants folded, loops rotated and unrolled where they are marked, the rest dropped.
    What follows in code generation finds common values and invariants of machine loops by itself."""
    import llvmlite.binding as llvm

    passes = llvm.create_new_module_pass_manager()
    passes.add_always_inliner_pass()
    passes.add_sroa_pass()
    passes.add_instruction_combine_pass()
    passes.add_simplify_cfg_pass()
    passes.add_loop_simplify_pass()
    passes.add_lcssa_pass()
    passes.add_loop_rotate_pass()
    passes.add_instruction_combine_pass()
    passes.add_simplify_cfg_pass()
    passes.add_loop_unroll_pass()
    passes.add_instruction_combine_pass()
    passes.add_dead_store_elimination_pass()
    passes.add_aggressive_dce_pass()
    passes.add_simplify_cfg_pass()
    passes.add_global_dead_code_eliminate_pass()
    return passes


def compile_module(
    text: str, names: dict[str, str], triple: str, cpu: str, features: str, explicit: bool = False
) -> bytes:
    """Object code of the module `text`, with the functions of `names` exported under their new names.

    Raises CompileError where LLVM cannot parse or verify the text, or a function is missing.
    """
    module = optimise(text, names, triple, cpu, features, explicit)
    code: bytes = target_machine(triple, cpu, features).emit_object(module)
    return code


def _rename(module: Any, names: dict[str, str]) -> None:
    missing = set(names)
    for function in module.functions:
        if function.is_declaration:
            continue
        if function.name in missing:
            missing.discard(function.name)
            function.name = names[function.name]
        else:
            function.linkage = "internal"
    for variable in module.global_variables:
        if not variable.is_declaration and variable.linkage.name == "external":
            variable.linkage = "internal"
    if missing:
        raise CompileError(f"the module does not define {', '.join(sorted(missing))}")


def write_frame(stream: BinaryIO, status: int, payload: bytes) -> None:
    stream.write(FRAME.pack(status, len(payload)))
    stream.write(payload)
    stream.flush()


def read_frame(stream: BinaryIO) -> tuple[int, bytes] | None:
    """(status, payload), or None at the end of the stream."""
    head = stream.read(FRAME.size)
    if len(head) < FRAME.size:
        return None
    status, length = FRAME.unpack(head)
    payload = stream.read(length)
    return (status, payload) if len(payload) == length else None


def serve(requests: BinaryIO, answers: BinaryIO) -> None:
    """Answer requests until the stream ends: the life of a compile worker."""
    while (frame := read_frame(requests)) is not None:
        try:
            write_frame(answers, 0, compile_module(*pickle.loads(frame[1])))
        except CompileError as error:
            write_frame(answers, 1, str(error).encode())


if __name__ == "__main__":
    # The engine hands over its module path, as it may have been changed since that interpreter started.
    sys.path[:] = pickle.loads(bytes.fromhex(sys.argv[1]))
    serve(sys.stdin.buffer, sys.stdout.buffer)
