"""Vectors of 16 float32 as a numba type, so that kernels are vector code by construction.

numba leaves vectorising to LLVM's loop vectoriser, which gives up on TV-L1 (too many arrays that might
overlap) and makes a loop 5 times slower without a word.  Here ``load`` reads 16 neighbouring pixels, + - * /
work on them, ``store`` writes them; LLVM splits the vectors to what the CPU has (SSE, AVX, AVX-512, NEON).

A kernel that uses these handles whole vectors only: rows are padded to a multiple of LANES.
numba's cache looks at the file of a kernel, not at this one: see PRIMITIVES in native_kernels.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, models, overload, register_model

from mepipe.flow.median import Exchange, median_program, pair_program

LANES = 16  # one AVX-512 register; two of AVX2, four of SSE or NEON

# No NaN or infinity can arise: inputs are checked, divisors are positive.  Sums keep their order (no "reassoc"), a
# product and a sum are rounded each (no "contract", except where ``fused`` says so) and divisions are divisions (no
# "arcp"): the results are then those of OpenCV's code, to the bit.
_FAST = ("nnan", "ninf", "nsz")
_FLOAT = ir.FloatType()
_INT32 = ir.IntType(32)
_VECTOR = ir.VectorType(_FLOAT, LANES)


class Vector(types.Type):
    """The numba type of LANES float32."""

    def __init__(self) -> None:
        super().__init__(name=f"float32x{LANES}")


vector = Vector()


@register_model(Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager: Any, frontend_type: types.Type) -> None:
        super().__init__(manager, frontend_type, _VECTOR)


def _place(context: Any, builder: ir.IRBuilder, array_type: types.Array, array: Any, index: Any) -> Any:
    """Pointer to the vector that starts at ``array[index]``; not aligned to more than one float."""
    data = context.make_array(array_type)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [index]), _VECTOR.as_pointer())


@intrinsic
def load(typing: Any, array: types.Array, index: types.Integer) -> Any:
    """``array[index : index + LANES]`` of a flat float32 array; bounds are not checked."""

    def emit(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        return builder.load(_place(context, builder, signature.args[0], *arguments), align=4)

    return vector(array, types.intp), emit


@intrinsic
def store(typing: Any, array: types.Array, index: types.Integer, value: Vector) -> Any:
    """``array[index : index + LANES] = value``; bounds are not checked."""

    def emit(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        array_, index_, value_ = arguments
        builder.store(value_, _place(context, builder, signature.args[0], array_, index_), align=4)
        return context.get_dummy_value()

    return types.void(array, types.intp, vector), emit


@intrinsic
def splat(typing: Any, value: types.Float) -> Any:
    """``value`` in every lane."""

    def emit(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        nothing = ir.Constant(_VECTOR, ir.Undefined)
        first = builder.insert_element(nothing, arguments[0], _INT32(0))
        return builder.shuffle_vector(first, nothing, _lanes([0] * LANES))

    return vector(types.float32), emit


@intrinsic
def sum_lanes(typing: Any, value: Vector) -> Any:
    """The sum of the lanes as float32, pairwise in a fixed order: the same on every CPU."""

    def emit(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        part, size = arguments[0], LANES
        while size > 1:
            size //= 2
            low, high = (builder.shuffle_vector(part, part, _lanes(range(i, i + size))) for i in (0, size))
            part = builder.fadd(low, high)
        return builder.extract_element(part, _INT32(0))

    return types.float32(vector), emit


def _lanes(numbers: Iterable[int]) -> ir.Constant:
    numbers = list(numbers)
    return ir.Constant(ir.VectorType(_INT32, len(numbers)), numbers)


# --- arithmetic ------------------------------------------------------------------------------------


def _two(emit: Callable[[ir.IRBuilder, Any, Any], Any]) -> Any:
    """An operation (vector, vector) -> vector."""

    @intrinsic
    def operation(typing: Any, a: Vector, b: Vector) -> Any:
        return vector(vector, vector), lambda context, builder, signature, arguments: emit(builder, *arguments)

    return operation


def _operator(python_operator: Any, operation: Any) -> None:
    """Let ``python_operator`` on two vectors be ``operation``."""

    @overload(python_operator, strict=False)  # numba compares annotations too
    def implement(a: Any, b: Any) -> Any:
        if isinstance(a, Vector) and isinstance(b, Vector):
            return lambda a, b: operation(a, b)
        return None


def _lower(builder: ir.IRBuilder, a: Any, b: Any) -> Any:
    return builder.select(builder.fcmp_ordered("<", a, b, flags=_FAST), a, b)


def _higher(builder: ir.IRBuilder, a: Any, b: Any) -> Any:
    return builder.select(builder.fcmp_ordered(">", a, b, flags=_FAST), a, b)


_operator(operator.add, _two(lambda builder, a, b: builder.fadd(a, b, flags=_FAST)))
_operator(operator.sub, _two(lambda builder, a, b: builder.fsub(a, b, flags=_FAST)))
_operator(operator.mul, _two(lambda builder, a, b: builder.fmul(a, b, flags=_FAST)))
_operator(operator.truediv, _two(lambda builder, a, b: builder.fdiv(a, b, flags=_FAST)))
lower = _two(_lower)
higher = _two(_higher)


def _one(name: str) -> Any:
    """The operation vector -> vector that LLVM calls ``name``."""

    @intrinsic
    def operation(typing: Any, value: Vector) -> Any:
        def emit(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
            kind = ir.FunctionType(_VECTOR, [_VECTOR])
            function = cgutils.get_or_insert_function(builder.module, kind, f"llvm.{name}.v{LANES}f32")
            return builder.call(function, arguments, fastmath=_FAST)

        return vector(vector), emit

    return operation


root = _one("sqrt")
floor = _one("floor")
magnitude = _one("fabs")


@intrinsic
def hypot64(typing: Any, a: Vector, b: Vector) -> Any:
    """sqrt(a^2 + b^2) in float64, rounded to float32 at the end: the C library's hypotf, on which this is modelled."""

    def emit(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        wide = ir.VectorType(ir.DoubleType(), LANES)
        a_, b_ = (builder.fpext(value, wide) for value in arguments)
        total = builder.fadd(builder.fmul(a_, a_), builder.fmul(b_, b_))
        kind = ir.FunctionType(wide, [wide])
        function = cgutils.get_or_insert_function(builder.module, kind, f"llvm.sqrt.v{LANES}f64")
        return builder.fptrunc(builder.call(function, [total]), _VECTOR)

    return vector(vector, vector), emit


def _fused(kind: types.Type, llvm_kind: ir.Type, name: str) -> Any:
    """Make ``a * b + c``, rounded once where the CPU can (FMA), twice where it cannot: as OpenCV's ``v_fma`` does."""

    @intrinsic
    def operation(typing: Any, a: types.Type, b: types.Type, c: types.Type) -> Any:
        def emit(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
            function = cgutils.get_or_insert_function(
                builder.module, ir.FunctionType(llvm_kind, [llvm_kind] * 3), f"llvm.fmuladd.{name}"
            )
            return builder.call(function, arguments)

        return kind(kind, kind, kind), emit

    return operation


fused = _fused(vector, _VECTOR, f"v{LANES}f32")
fused_scalar = _fused(types.float32, _FLOAT, "f32")


@intrinsic
def where_less(typing: Any, a: Vector, b: Vector, yes: Vector, no: Vector) -> Any:
    """``yes`` in the lanes where a < b, else ``no``."""

    def emit(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        a_, b_, yes_, no_ = arguments
        return builder.select(builder.fcmp_ordered("<", a_, b_), yes_, no_)

    return vector(vector, vector, vector, vector), emit


@intrinsic
def first_lane(typing: Any, first: Vector, rest: Vector) -> Any:
    """Lane 0 of ``first``, the others of ``rest``."""

    def emit(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        first_, rest_ = arguments
        return builder.shuffle_vector(first_, rest_, _lanes([0, *range(LANES + 1, 2 * LANES)]))

    return vector(vector, vector), emit


@intrinsic
def any_less(typing: Any, a: Vector, b: Vector) -> Any:
    """Whether a < b in any lane."""

    def emit(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        bits = builder.bitcast(builder.fcmp_ordered("<", *arguments), ir.IntType(LANES))
        return builder.icmp_unsigned("!=", bits, bits.type(0))

    return types.boolean(vector, vector), emit


@intrinsic
def first_of(typing: Any, value: Vector) -> Any:
    """Lane 0 of ``value``."""

    def emit(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        return builder.extract_element(arguments[0], _INT32(0))

    return types.float32(vector), emit


@intrinsic
def neighbour(typing: Any, value: Vector, step: types.Integer) -> Any:
    """The next float32 above (step 1) or below (step -1) each non-negative ``value``."""

    def emit(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        whole = ir.VectorType(_INT32, LANES)
        value_, step_ = arguments
        one = builder.insert_element(ir.Constant(whole, ir.Undefined), builder.trunc(step_, _INT32), _INT32(0))
        steps = builder.shuffle_vector(one, one, _lanes([0] * LANES))
        return builder.bitcast(builder.add(builder.bitcast(value_, whole), steps), _VECTOR)

    return vector(vector, types.intp), emit


# --- pixels of LANES neighbours --------------------------------------------------------------------


@intrinsic
def sample_window(
    typing: Any,
    planes: types.Array,
    at: types.Integer,
    stride: types.Integer,
    plane: types.Integer,
    along_x: types.UniTuple,
    along_y: types.UniTuple,
) -> Any:
    """For LANES pixels side by side, the weighted sum of n x n taps of three planes, as three vectors.

    The first tap of lane 0 is ``planes[at]``; rows are ``stride`` apart, planes ``plane``.  along_x, along_y: n vectors
    of weights each.  Along x first, then along y, each a chain of fused operations: OpenCV's order.
    """

    def emit(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        planes_, at_, stride_, plane_, *weights = arguments
        wx, wy = (cgutils.unpack_tuple(builder, w) for w in weights)
        kind = ir.FunctionType(_VECTOR, [_VECTOR] * 3)
        fma = cgutils.get_or_insert_function(builder.module, kind, f"llvm.fmuladd.v{LANES}f32")

        def chain(values: Iterable[Any], weights: Sequence[Any]) -> Any:
            total = None
            for value, w in zip(values, weights, strict=True):
                total = builder.fmul(value, w) if total is None else builder.call(fma, [value, w, total])
            return total

        def row(at: Any) -> Any:
            indices = [builder.add(at, at.type(i)) for i in range(len(wx))]
            places = [_place(context, builder, signature.args[0], planes_, i) for i in indices]
            return chain((builder.load(p, align=4) for p in places), wx)

        sampled = []
        for _ in range(3):
            rows = (row(builder.add(at_, builder.mul(stride_, stride_.type(j)))) for j in range(len(wy)))
            sampled.append(chain(rows, wy))
            at_ = builder.add(at_, plane_)
        return context.make_tuple(builder, signature.return_type, sampled)

    same = types.intp
    return types.UniTuple(vector, 3)(planes, same, same, same, along_x, along_y), emit


# --- pixels of four channels, four of them to a vector ---------------------------------------------


@intrinsic
def store_places(
    typing: Any, places: types.Array, at: types.Integer, row: Vector, column: Vector, stride: types.Integer
) -> Any:
    """``places[at : at + LANES] = row * stride + 4 * column``, int32, from whole-numbered vectors."""

    def emit(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        places_, at_, row_, column_, stride_ = arguments
        whole = ir.VectorType(_INT32, LANES)
        first = builder.insert_element(ir.Constant(whole, ir.Undefined), builder.trunc(stride_, _INT32), _INT32(0))
        strides = builder.shuffle_vector(first, first, _lanes([0] * LANES))
        start = builder.mul(builder.fptosi(row_, whole), strides)
        value = builder.add(start, builder.mul(builder.fptosi(column_, whole), _lanes([4] * LANES)))
        data = context.make_array(signature.args[0])(context, builder, places_).data
        builder.store(value, builder.bitcast(builder.gep(data, [at_]), whole.as_pointer()), align=4)
        return context.get_dummy_value()

    return types.void(places, types.intp, vector, vector, types.intp), emit


@intrinsic
def store_sampled(
    typing: Any,
    out: types.Array,
    at: types.Integer,
    packed: types.Array,
    place: types.Integer,
    stride: types.Integer,
    weights: types.Array,
    x: types.Integer,
    pitch: types.Integer,
) -> Any:
    """``out[at : at + 4]`` = the four channels of the 4 x 4 pixels at ``packed[place]``, weighted.

    Rows of pixels are ``stride`` apart.  weights: the rows ``weights[x + i * pitch]``, i = 0..3 along x, 4..7 along y.
    Along x first, then along y, each a chain of fused operations: OpenCV's order.
    """

    def emit(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        out_, at_, packed_, place_, stride_, weights_, x_, pitch_ = arguments
        four = ir.VectorType(_FLOAT, 4)
        kind = ir.FunctionType(four, [four] * 3)
        fma = cgutils.get_or_insert_function(builder.module, kind, "llvm.fmuladd.v4f32")
        pixels = context.make_array(signature.args[2])(context, builder, packed_).data
        scalars = context.make_array(signature.args[5])(context, builder, weights_).data

        def weight(i: int) -> Any:
            value = builder.load(builder.gep(scalars, [builder.add(x_, builder.mul(pitch_, pitch_.type(i)))]))
            first = builder.insert_element(ir.Constant(four, ir.Undefined), value, _INT32(0))
            return builder.shuffle_vector(first, first, _lanes([0] * 4))

        def chain(values: Sequence[Any], weights: Sequence[Any]) -> Any:
            total = builder.fmul(values[0], weights[0])
            for value, w in zip(values[1:], weights[1:], strict=True):
                total = builder.call(fma, [value, w, total])
            return total

        along_x, rows = [weight(i) for i in range(4)], []
        for j in range(4):
            row = builder.add(place_, builder.mul(stride_, stride_.type(j)))
            places = [builder.gep(pixels, [builder.add(row, row.type(4 * i))]) for i in range(4)]
            taps = [builder.load(builder.bitcast(p, four.as_pointer()), align=4) for p in places]
            rows.append(chain(taps, along_x))
        value = chain(rows, [weight(4 + j) for j in range(4)])
        data = context.make_array(signature.args[0])(context, builder, out_).data
        builder.store(value, builder.bitcast(builder.gep(data, [at_]), four.as_pointer()), align=4)
        return context.get_dummy_value()

    return types.void(out, types.intp, packed, types.intp, types.intp, weights, types.intp, types.intp), emit


@intrinsic
def load_channels(typing: Any, pixels: types.Array, at: types.Integer) -> Any:
    """The first three channels of the LANES pixels at ``pixels[at]``, as three vectors."""

    def emit(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        pixels_, at_ = arguments
        indices = [builder.add(at_, at_.type(i * LANES)) for i in range(4)]
        places = [_place(context, builder, signature.args[0], pixels_, i) for i in indices]
        four = [builder.load(place, align=4) for place in places]
        channels = []
        for channel in range(3):
            every_fourth = _lanes(range(channel, 2 * LANES, 4))
            halves = [builder.shuffle_vector(a, b, every_fourth) for a, b in (four[:2], four[2:])]
            channels.append(builder.shuffle_vector(*halves, _lanes(range(LANES))))
        return context.make_tuple(builder, signature.return_type, channels)

    return types.UniTuple(vector, 3)(pixels, types.intp), emit


# --- the median ------------------------------------------------------------------------------------


def _run(builder: ir.IRBuilder, wires: list[Any], network: Sequence[Exchange]) -> list[Any]:
    """Emit the min/max operations of ``network``."""
    for low, high, keep_low, keep_high in network:
        a, b = wires[low], wires[high]
        if keep_low:
            wires[low] = _lower(builder, a, b)
        if keep_high:
            wires[high] = _higher(builder, a, b)
    return wires


def median_operations(k: int) -> tuple[Any, Any]:
    """(sort_column, median) for k x k windows, the two parts of :func:`median_program`.

    sort_column(out, at, pitch, rows, where): the k vectors ``rows[where[i]]`` sorted, to ``out[at + i * pitch]``.
    median(columns, at, pitch): the medians of the windows centred at ``at``, from sorted columns.
    """
    sort, rest, wire = median_program(k)

    @intrinsic
    def sort_column(
        typing: Any, out: types.Array, at: types.Integer, pitch: types.Integer, rows: types.Array, where: types.UniTuple
    ) -> Any:
        def emit(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
            out_, at_, pitch_, rows_, where_ = arguments
            indices = cgutils.unpack_tuple(builder, where_)
            places = [_place(context, builder, signature.args[3], rows_, i) for i in indices]
            for value in _run(builder, [builder.load(p, align=4) for p in places], sort):
                builder.store(value, _place(context, builder, signature.args[0], out_, at_), align=4)
                at_ = builder.add(at_, pitch_)
            return context.get_dummy_value()

        return types.void(out, types.intp, types.intp, rows, types.UniTuple(types.intp, k)), emit

    @intrinsic
    def median(typing: Any, columns: types.Array, at: types.Integer, pitch: types.Integer) -> Any:
        def emit(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
            columns_, at_, pitch_ = arguments
            wires = []
            for _ in range(k):
                for j in range(k):
                    index = builder.add(at_, at_.type(j - k // 2))
                    place = _place(context, builder, signature.args[0], columns_, index)
                    wires.append(builder.load(place, align=4))
                at_ = builder.add(at_, pitch_)
            return _run(builder, wires, rest)[wire]

        return vector(columns, types.intp, types.intp), emit

    return sort_column, median


class PairMedian:
    """Medians of k x k windows (k is 5), of a row and the next at once, as one intrinsic: see :func:`pair_program`.

    Rows are taken in pairs, y and y + 1 for even y.  What a later pair needs again lies in a table, whose rows are
    ``stride`` apart: a sorted row is k of them, for each element it and its k - 1 neighbours in order.
      EVEN   sorted rows y - 2 and y, in the two places ``slot`` 0 and 1 by turns
      ODD    sorted row y + 1
      MERGE  rows y - 1 and y, merged: 2 k
    """

    def __init__(self, k: int) -> None:
        self.k = k
        self.sort, (self.first, self.second) = pair_program(k)
        self.odd, self.merge, self.rows = 2 * k, 3 * k, 5 * k

    def medians(self) -> Any:
        """f(image, rows, out, to, table, at, stride, slot): LANES medians of rows y and y + 1, to ``out[to[0 or 1]]``.

        rows: where in ``image`` the element ``at`` of rows y + 2 and y + 3 is.  The table goes on to the next pair.
        """

        def emit(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
            _, rows, _, to, _, at, stride, slot = arguments
            (image, _, out, _, table, *_), k = range(len(arguments)), self.k

            def places(argument: int, indices: Iterable[Any]) -> list[Any]:
                return [_place(context, builder, signature.args[argument], arguments[argument], i) for i in indices]

            def table_rows(first: Any, count: int) -> list[Any]:
                each = [builder.add(first, stride.type(i)) for i in range(count)]
                return places(table, [builder.add(at, builder.mul(stride, row)) for row in each])

            def sorted_row(start: Any) -> list[Any]:
                around = [builder.add(start, start.type(i - k // 2)) for i in range(k)]
                return _run(builder, read(places(image, around)), self.sort)

            def read(these: list[Any]) -> list[Any]:
                return [builder.load(place, align=4) for place in these]

            even = table_rows(builder.mul(slot, slot.type(k)), k)
            odd, merged = (table_rows(stride.type(first), n) for first, n in ((self.odd, k), (self.merge, 2 * k)))
            two, three = (sorted_row(start) for start in cgutils.unpack_tuple(builder, rows))
            merge = self._merge(builder, read(odd) + two, self.first)
            shared = self._merge(builder, read(merged) + merge, self.second)
            medians = [self._pick(builder, shared, others) for others in (read(even), three)]
            targets = places(out, cgutils.unpack_tuple(builder, to)) + even + odd + merged
            for value, place in zip(medians + two + three + merge, targets, strict=True):
                builder.store(value, place, align=4)
            return context.get_dummy_value()

        @intrinsic
        def medians(
            typing: Any, image: Any, rows: Any, out: Any, to: Any, table: Any, at: Any, stride: Any, slot: Any
        ) -> Any:
            pair, index = types.UniTuple(types.intp, 2), types.intp
            return types.void(image, pair, out, pair, table, index, index, index), emit

        return medians

    @staticmethod
    def _merge(builder: ir.IRBuilder, wires: list[Any], program: tuple[list[Exchange], list[int]]) -> list[Any]:
        network, order = program
        wires = _run(builder, wires, network)
        return [wires[wire] for wire in order]

    def _pick(self, builder: ir.IRBuilder, shared: list[Any], others: list[Any]) -> Any:
        best = shared[self.k]
        for value, other in zip(reversed(shared[: self.k]), others, strict=True):
            best = _lower(builder, best, _higher(builder, value, other))
        return best
