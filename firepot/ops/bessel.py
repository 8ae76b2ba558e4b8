"""Bessel and Airy functions, by the rational and Chebyshev approximations of the Cephes library (Moshier, 1989)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from firepot.autograd import Function
from firepot.graph import dtypes
from firepot.graph.node import Node, detach
from firepot.graph.primitives import elementwise as ew
from firepot.ops import arithmetic
from firepot.ops.broadcast import floating
from firepot.tensor import Tensor, node_of, wrap

__all__ = [
    "airy_ai", "bessel_j0", "bessel_j1", "bessel_y0", "bessel_y1", "i0", "i0e", "i1", "i1e", "modified_bessel_i0",
    "modified_bessel_i1", "modified_bessel_k0", "modified_bessel_k1", "scaled_modified_bessel_k0",
    "scaled_modified_bessel_k1", "spherical_bessel_j0",
]  # fmt: skip

_AIRY_AN = (
    0.346538101525629, 12.007595273964581, 76.27960536152345, 168.08922493463058, 159.75639135016442,
    70.53609068404442, 14.026469116338967, 1.0,
)  # fmt: skip
_AIRY_AD = (
    0.5675945326387702, 14.75625625848472, 84.51389701414746, 177.31808814540045, 164.2346928715297,
    71.47784008255756, 14.095913560783403, 1.0,
)  # fmt: skip
_AIRY_AFN = (
    -0.1316963234183318, -0.6264565444319123, -0.6931580360369335, -0.2797799815451191, -0.04919001326095003,
    -0.004062659235948854, -0.0001592764962392621, -2.776491081552329e-06, -1.6778769848911465e-08,
)  # fmt: skip
_AIRY_AFD = (
    13.356042070655324, 32.682503279522464, 26.736704094149957, 9.187074029072596, 1.4752914677166642,
    0.11568717379518804, 0.004402916416152112, 7.547203482874142e-05, 4.5185009297058035e-07,
)  # fmt: skip
_AIRY_AGN = (
    0.01973399320916857, 0.39110302961568827, 1.0657989759959559, 0.9391692298166502, 0.35146565610554764,
    0.06338889196289255, 0.005858041130483885, 0.000282851600836737, 6.98793669997261e-06,
    8.117892395543892e-08, 3.415517847659236e-10,
)  # fmt: skip
_AIRY_AGD = (
    9.30892908077442, 19.835292871831214, 15.564662893286462, 5.476860694229755, 0.9542936116189619,
    0.08645808263523921, 0.004126565238242226, 0.00010125908511650914, 1.1716673321441352e-06,
    4.9183457006293e-09,
)  # fmt: skip
_J0_PP = (
    0.0007969367292973471, 0.08283523921074408, 1.239533716464143, 5.447250030587687, 8.74716500199817,
    5.303240382353949, 1.0,
)  # fmt: skip
_J0_PQ = (
    0.0009244088105588637, 0.08562884743544745, 1.2535274390105895, 5.470977403304171, 8.761908832370695,
    5.306052882353947, 1.0,
)  # fmt: skip
_J0_QP = (
    -0.011366383889846916, -1.2825271867050931, -19.553954425773597, -93.20601521237683, -177.68116798048806,
    -147.07750515495118, -51.41053267665993, -6.050143506007285,
)  # fmt: skip
_J0_QQ = (
    64.3178256118178, 856.4300259769806, 3882.4018360540163, 7240.467741956525, 5930.727011873169,
    2062.0933166032783, 242.0057402402914,
)  # fmt: skip
_J0_RP = (-4794432209.782018, 1956174919465.5657, -249248344360967.72, 9708622510473064.0)
_J0_RQ = (
    499.563147152651, 173785.4016763747, 48440965.83399621, 11185553704.535683, 2112775201154.892,
    310518229857422.56, 3.1812195594320496e+16, 1.7108629408104315e+18,
)  # fmt: skip
_J1_PP = (
    0.0007621256162081731, 0.07313970569409176, 1.1271960812968493, 5.112079511468076, 8.424045901417724,
    5.214515986823615, 1.0,
)  # fmt: skip
_J1_PQ = (
    0.0005713231280725487, 0.06884559087544954, 1.105142326340617, 5.073863861286015, 8.399855543276042,
    5.209828486823619, 1.0,
)  # fmt: skip
_J1_QP = (
    0.05108625947501766, 4.982138729512334, 75.82382841325453, 366.7796093601508, 710.8563049989261,
    597.4896124006136, 211.68875710057213, 25.207020585802372,
)  # fmt: skip
_J1_QQ = (
    74.23732770356752, 1056.4488603826283, 4986.410583376536, 9562.318924047562, 7997.041604473507,
    2826.1927851763908, 336.0936078106983,
)  # fmt: skip
_J1_RP = (-899971225.7055594, 452228297998.19403, -72749424522181.83, 3682957328638529.0)
_J1_RQ = (
    620.8364781180543, 256987.25675774884, 83514679.14319493, 22151159547.97925, 4749141220799.914,
    784369607876235.9, 8.952223361846274e+16, 5.322786203326801e+18,
)  # fmt: skip
_Y0_PP = _J0_PP
_Y0_PQ = _J0_PQ
_Y0_QP = _J0_QP
_Y0_QQ = _J0_QQ
_Y0_YP = (
    15592.436785523574, -14663929.59039716, 5435264770.518765, -982136065717.9115, 87590639439536.7,
    -3466283033847297.0, 4.4273326857256984e+16, -1.8495080043698668e+16,
)  # fmt: skip
_Y0_YQ = (
    1041.2835366425984, 626107.330137135, 268919633.39381415, 86400248710.3935, 20297961275010.555,
    3171577528429750.5, 2.5059625617265306e+17,
)  # fmt: skip
_Y1_PP = _J1_PP
_Y1_PQ = _J1_PQ
_Y1_QP = _J1_QP
_Y1_QQ = _J1_QQ
_Y1_YP = (
    1263204747.9017804, -647355876379.1603, 114509511541823.73, -8127702555013251.0, 2.024394757135949e+17,
    -7.788771962659501e+17,
)  # fmt: skip
_Y1_YQ = (
    594.3015923461282, 235564.09294306856, 73481194.44597217, 18760131610.870617, 3882312774962.3857,
    620557727146953.8, 6.871410873553005e+16, 3.9727060811656064e+18,
)  # fmt: skip
_K0_A = (
    1.374465435613523e-16, 4.25981614279661e-14, 1.0349695257633842e-11, 1.904516377220209e-09,
    2.5347910790261494e-07, 2.286212103119452e-05, 0.001264615411446926, 0.0359799365153615, 0.3442898999246285,
    -0.5353273932339028,
)  # fmt: skip
_K0_B = (
    5.300433772686263e-18, -1.6475804301524212e-17, 5.2103915050390274e-17, -1.678231096805412e-16,
    5.512055978524319e-16, -1.848593377343779e-15, 6.3400764774050706e-15, -2.2275133269916698e-14,
    8.032890775363575e-14, -2.9800969231727303e-13, 1.140340588208475e-12, -4.514597883373944e-12,
    1.8559491149547177e-11, -7.957489244477107e-11, 3.577397281400301e-10, -1.69753450938906e-09,
    8.574034017414225e-09, -4.660489897687948e-08, 2.766813639445015e-07, -1.8317555227191195e-06,
    1.39498137188765e-05, -0.00012849549581627802, 0.0015698838857300533, -0.0314481013119645,
    2.4403030820659555,
)  # fmt: skip
_K1_A = (
    -7.023863479386288e-18, -2.427449850519366e-15, -6.666901694199329e-13, -1.4114883926335278e-10,
    -2.213387630734726e-08, -2.4334061415659684e-06, -0.0001730288957513052, -0.006975723859639864,
    -0.12261118082265715, -0.3531559607765449, 1.5253002273389478,
)  # fmt: skip
_K1_B = (
    -5.756744483665017e-18, 1.7940508731475592e-17, -5.689462558442859e-17, 1.838093544366639e-16,
    -6.057047248373319e-16, 2.038703165624334e-15, -7.019837090418314e-15, 2.4771544244813043e-14,
    -8.976705182324994e-14, 3.3484196660784293e-13, -1.2891739609510289e-12, 5.13963967348173e-12,
    -2.1299678384275683e-11, 9.218315187605006e-11, -4.1903547593418965e-10, 2.015049755197033e-09,
    -1.0345762465678097e-08, 5.7410841254500495e-08, -3.5019606030878126e-07, 2.406484947837217e-06,
    -1.936197974166083e-05, 0.00019521551847135162, -0.002857816859622779, 0.10392373657681724,
    2.7206261904844427,
)  # fmt: skip
_I0_A = (
    -4.4153416464793395e-18, 3.3307945188222384e-17, -2.431279846547955e-16, 1.715391285555133e-15,
    -1.1685332877993451e-14, 7.676185498604936e-14, -4.856446783111929e-13, 2.95505266312964e-12,
    -1.726826291441556e-11, 9.675809035373237e-11, -5.189795601635263e-10, 2.6598237246823866e-09,
    -1.300025009986248e-08, 6.046995022541919e-08, -2.670793853940612e-07, 1.1173875391201037e-06,
    -4.4167383584587505e-06, 1.6448448070728896e-05, -5.754195010082104e-05, 0.00018850288509584165,
    -0.0005763755745385824, 0.0016394756169413357, -0.004324309995050576, 0.010546460394594998,
    -0.02373741480589947, 0.04930528423967071, -0.09490109704804764, 0.17162090152220877, -0.3046826723431984,
    0.6767952744094761,
)  # fmt: skip
_I0_B = (
    -7.233180487874754e-18, -4.830504485944182e-18, 4.46562142029676e-17, 3.461222867697461e-17,
    -2.8276239805165836e-16, -3.425485619677219e-16, 1.7725601330565263e-15, 3.8116806693526224e-15,
    -9.554846698828307e-15, -4.150569347287222e-14, 1.54008621752141e-14, 3.8527783827421426e-13,
    7.180124451383666e-13, -1.7941785315068062e-12, -1.3215811840447713e-11, -3.1499165279632416e-11,
    1.1889147107846439e-11, 4.94060238822497e-10, 3.3962320257083865e-09, 2.266668990498178e-08,
    2.0489185894690638e-07, 2.8913705208347567e-06, 6.889758346916825e-05, 0.0033691164782556943,
    0.8044904110141088,
)  # fmt: skip
_I1_A = (
    2.7779141127610464e-18, -2.111421214358166e-17, 1.5536319577362005e-16, -1.1055969477353862e-15,
    7.600684294735408e-15, -5.042185504727912e-14, 3.223793365945575e-13, -1.9839743977649436e-12,
    1.1736186298890901e-11, -6.663489723502027e-11, 3.625590281552117e-10, -1.8872497517228294e-09,
    9.381537386495773e-09, -4.445059128796328e-08, 2.0032947535521353e-07, -8.568720264695455e-07,
    3.4702513081376785e-06, -1.3273163656039436e-05, 4.781565107550054e-05, -0.00016176081582589674,
    0.0005122859561685758, -0.0015135724506312532, 0.004156422944312888, -0.010564084894626197,
    0.024726449030626516, -0.05294598120809499, 0.1026436586898471, -0.17641651835783406, 0.25258718644363365,
)  # fmt: skip
_I1_B = (
    7.517296310842105e-18, 4.414348323071708e-18, -4.6503053684893586e-17, -3.209525921993424e-17,
    2.96262899764595e-16, 3.3082023109209285e-16, -1.8803547755107825e-15, -3.8144030724370075e-15,
    1.0420276984128802e-14, 4.272440016711951e-14, -2.1015418427726643e-14, -4.0835511110921974e-13,
    -7.198551776245908e-13, 2.0356285441470896e-12, 1.4125807436613782e-11, 3.2526035830154884e-11,
    -1.8974958123505413e-11, -5.589743462196584e-10, -3.835380385964237e-09, -2.6314688468895196e-08,
    -2.512236237870209e-07, -3.882564808877691e-06, -0.00011058893876262371, -0.009761097491361469,
    0.7785762350182801,
)  # fmt: skip

# -- building blocks -------------------------------------------------------------------------------------------------


def polynomial(x: Node, coefficients: Sequence[float]) -> Node:
    """Horner's rule, the highest coefficient first."""
    result = ew.like(x, coefficients[0])
    for c in coefficients[1:]:
        result = ew.add(ew.mul(result, x), ew.like(x, c))
    return result


def chebyshev(x: Node, coefficients: Sequence[float]) -> Node:
    """Clenshaw's rule on −2 … 2, the highest coefficient first and the lowest counted half."""
    before = last = ew.like(x, 0)
    value = ew.like(x, coefficients[0])
    for c in coefficients[1:]:
        before, last = last, value
        value = ew.add(ew.sub(ew.mul(x, last), before), ew.like(x, c))
    return ew.mul(ew.sub(value, before), ew.like(x, 0.5))


def differentiable(value: Callable[[Node], Node], slope: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """An element-wise function of floating tensors with its derivative.

    Values are computed in float64: their series cancel, and their exponentials overflow before they do. The derivative
    of half precision is computed in float32.
    """

    class Rule(Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            ctx.save_for_backward(x)
            return wrap(ew.cast(value(ew.cast(x._node, dtypes.float64)), x.dtype))

        @staticmethod
        def backward(ctx: Any, g: Tensor) -> Tensor:
            (x,) = ctx.saved_tensors
            return arithmetic.mul(g, slope(x))

    def function(input: Tensor) -> Tensor:
        x = floating(node_of(input))
        if x.dtype in (dtypes.float16, dtypes.bfloat16):
            wide: Tensor = Rule.apply(wrap(ew.cast(x, dtypes.float32)))
            return wrap(ew.cast(wide._node, x.dtype))
        result: Tensor = Rule.apply(wrap(x))
        return result

    return function


def _c(x: Node, value: float) -> Node:
    return ew.like(x, value)


# -- modified Bessel functions of the first kind ---------------------------------------------------------------------


def _modified(x: Node, low: Sequence[float], high: Sequence[float], scaled: bool) -> Node:
    size = ew.unary("abs", x)
    inside = ew.compare("le", size, _c(x, 8))
    near = chebyshev(ew.sub(ew.mul(size, _c(x, 0.5)), _c(x, 2)), low)
    away = ew.where(inside, _c(x, 8), size)
    far = ew.mul(chebyshev(ew.sub(ew.div(_c(x, 32), away), _c(x, 2)), high), ew.unary("rsqrt", away))
    if low is _I1_A:
        near = ew.mul(near, size)
    result = ew.where(inside, near, far)
    if not scaled:
        result = ew.mul(result, ew.unary("exp", size))
    return ew.where(ew.compare("lt", x, _c(x, 0)), ew.neg(result), result) if low is _I1_A else result


def _i1_slope(x: Tensor) -> Tensor:
    zero = arithmetic.eq(x, 0)
    safe = arithmetic.where(zero, 1.0, x)
    return arithmetic.where(zero, 0.5, arithmetic.sub(i0(safe), arithmetic.div(i1(safe), safe)))


def _i1e_slope(x: Tensor) -> Tensor:
    zero = arithmetic.eq(x, 0)
    safe = arithmetic.where(zero, 1.0, x)
    rest = arithmetic.mul(i1e(safe), arithmetic.add(arithmetic.sign(safe), arithmetic.reciprocal(safe)))
    return arithmetic.where(zero, 0.5, arithmetic.sub(i0e(safe), rest))


_i0 = differentiable(lambda x: _modified(x, _I0_A, _I0_B, False), lambda x: i1(x))
_i1 = differentiable(lambda x: _modified(x, _I1_A, _I1_B, False), _i1_slope)
_i0e = differentiable(
    lambda x: _modified(x, _I0_A, _I0_B, True),
    lambda x: arithmetic.sub(i1e(x), arithmetic.mul(arithmetic.sign(x), i0e(x))),
)
_i1e = differentiable(lambda x: _modified(x, _I1_A, _I1_B, True), _i1e_slope)


def i0(input: Tensor) -> Tensor:
    """The modified Bessel function of the first kind of order 0."""
    return _i0(input)


def i1(input: Tensor) -> Tensor:
    """The modified Bessel function of the first kind of order 1."""
    return _i1(input)


def i0e(input: Tensor) -> Tensor:
    """exp(−|x|) i0(x)."""
    return _i0e(input)


def i1e(input: Tensor) -> Tensor:
    """exp(−|x|) i1(x)."""
    return _i1e(input)


modified_bessel_i0, modified_bessel_i1 = i0, i1

# -- modified Bessel functions of the second kind --------------------------------------------------------------------


def _second_kind(x: Node, order: int, scaled: bool) -> Node:
    low, high = (_K0_A, _K0_B) if order == 0 else (_K1_A, _K1_B)
    positive = ew.gt(x, _c(x, 0))
    safe = ew.where(positive, x, _c(x, 1))
    inside = ew.compare("le", safe, _c(x, 2))
    small = ew.where(inside, safe, _c(x, 1))
    near = chebyshev(ew.sub(ew.square(small), _c(x, 2)), low)
    half = ew.log(ew.mul(small, _c(x, 0.5)))
    if order == 0:
        near = ew.sub(near, ew.mul(half, _modified(small, _I0_A, _I0_B, False)))
    else:
        near = ew.add(ew.mul(half, _modified(small, _I1_A, _I1_B, False)), ew.div(near, small))
    far = ew.mul(chebyshev(ew.sub(ew.div(_c(x, 8), safe), _c(x, 2)), high), ew.unary("rsqrt", safe))
    if scaled:
        near = ew.mul(near, ew.unary("exp", small))
    else:
        far = ew.mul(far, ew.unary("exp", ew.neg(safe)))
    outside = ew.where(ew.eq(x, _c(x, 0)), _c(x, math.inf), _c(x, math.nan))
    return ew.where(positive, ew.where(inside, near, far), outside)


_k0 = differentiable(lambda x: _second_kind(x, 0, False), lambda x: arithmetic.neg(modified_bessel_k1(x)))
_k1 = differentiable(
    lambda x: _second_kind(x, 1, False),
    lambda x: arithmetic.neg(arithmetic.add(modified_bessel_k0(x), arithmetic.div(modified_bessel_k1(x), x))),
)
_k0e = differentiable(
    lambda x: _second_kind(x, 0, True),
    lambda x: arithmetic.sub(scaled_modified_bessel_k0(x), scaled_modified_bessel_k1(x)),
)
_k1e = differentiable(
    lambda x: _second_kind(x, 1, True),
    lambda x: arithmetic.sub(
        arithmetic.mul(scaled_modified_bessel_k1(x), arithmetic.sub(1.0, arithmetic.reciprocal(x))),
        scaled_modified_bessel_k0(x),
    ),
)


def modified_bessel_k0(input: Tensor) -> Tensor:
    """The modified Bessel function of the second kind of order 0: ∞ at 0, NaN below."""
    return _k0(input)


def modified_bessel_k1(input: Tensor) -> Tensor:
    """The modified Bessel function of the second kind of order 1: ∞ at 0, NaN below."""
    return _k1(input)


def scaled_modified_bessel_k0(x: Tensor) -> Tensor:
    """exp(x) modified_bessel_k0(x)."""
    return _k0e(x)


def scaled_modified_bessel_k1(x: Tensor) -> Tensor:
    """exp(x) modified_bessel_k1(x)."""
    return _k1e(x)


# -- Bessel functions ------------------------------------------------------------------------------------------------


def _far(x: Node, tables: tuple[Sequence[float], ...], phase: float, second: bool) -> Node:
    """The asymptotic form for x > 5."""
    pp, pq, qp, qq = tables
    z = ew.div(_c(x, 5), x)
    square = ew.square(z)
    p = ew.div(polynomial(square, pp), polynomial(square, pq))
    q = ew.mul(z, ew.div(polynomial(square, qp), polynomial(square, qq)))
    angle = ew.sub(x, _c(x, phase))
    sine, cosine = ew.unary("sin", angle), ew.unary("cos", angle)
    both = ew.add(ew.mul(p, sine), ew.mul(q, cosine)) if second else ew.sub(ew.mul(p, cosine), ew.mul(q, sine))
    return ew.mul(ew.mul(both, _c(x, math.sqrt(2 / math.pi))), ew.unary("rsqrt", x))


def _first_order(order: int) -> tuple[tuple[Sequence[float], ...], float]:
    if order == 0:
        return (_J0_PP, _J0_PQ, _J0_QP, _J0_QQ), math.pi / 4
    return (_J1_PP, _J1_PQ, _J1_QP, _J1_QQ), 3 * math.pi / 4


def _j(x: Node, order: int) -> Node:
    size = ew.unary("abs", x)
    inside = ew.compare("le", size, _c(x, 5))
    square = ew.square(ew.where(inside, size, _c(x, 1)))
    if order == 0:
        ratio = ew.div(polynomial(square, _J0_RP), polynomial(square, _J0_RQ))
        near = ew.mul(ew.mul(ew.sub(square, _c(x, 5.78318596294678452118)), ew.sub(square, _c(x, 30.4712623436620863991))),
                      ratio)  # fmt: skip
        near = ew.where(ew.compare("lt", size, _c(x, 1e-5)), ew.sub(_c(x, 1), ew.mul(square, _c(x, 0.25))), near)
    else:
        ratio = ew.div(polynomial(square, _J1_RP), polynomial(square, _J1_RQ))
        near = ew.mul(ew.mul(ratio, size), ew.mul(ew.sub(square, _c(x, 14.6819706421238932572)),
                      ew.sub(square, _c(x, 49.2184563216946036703))))  # fmt: skip
    result = ew.where(inside, near, _far(ew.where(inside, _c(x, 8), size), *_first_order(order), False))
    return ew.where(ew.compare("lt", x, _c(x, 0)), ew.neg(result), result) if order else result


def _y(x: Node, order: int) -> Node:
    positive = ew.gt(x, _c(x, 0))
    safe = ew.where(positive, x, _c(x, 1))
    inside = ew.compare("le", safe, _c(x, 5))
    small = ew.where(inside, safe, _c(x, 1))
    square = ew.square(small)
    both = ew.mul(ew.log(small), _j(small, order))
    if order == 0:
        near = ew.div(polynomial(square, _Y0_YP), polynomial(square, _Y0_YQ))
    else:
        near = ew.mul(small, ew.div(polynomial(square, _Y1_YP), polynomial(square, _Y1_YQ)))
        both = ew.sub(both, ew.unary("reciprocal", small))
    near = ew.add(near, ew.mul(both, _c(x, 2 / math.pi)))
    result = ew.where(inside, near, _far(ew.where(inside, _c(x, 8), safe), *_first_order(order), True))
    return ew.where(positive, result, ew.where(ew.eq(x, _c(x, 0)), _c(x, -math.inf), _c(x, math.nan)))


def _over(y: Tensor, x: Tensor) -> Tensor:
    """y / x, ½ at 0: the limit for functions that start as x / 2."""
    zero = arithmetic.eq(x, 0)
    return arithmetic.where(zero, 0.5, arithmetic.div(y, arithmetic.where(zero, 1.0, x)))


_j0 = differentiable(lambda x: _j(x, 0), lambda x: arithmetic.neg(bessel_j1(x)))
_j1 = differentiable(lambda x: _j(x, 1), lambda x: arithmetic.sub(bessel_j0(x), _over(bessel_j1(x), x)))
_y0 = differentiable(lambda x: _y(x, 0), lambda x: arithmetic.neg(bessel_y1(x)))
_y1 = differentiable(lambda x: _y(x, 1), lambda x: arithmetic.sub(bessel_y0(x), arithmetic.div(bessel_y1(x), x)))


def bessel_j0(input: Tensor) -> Tensor:
    """The Bessel function of the first kind of order 0."""
    return _j0(input)


def bessel_j1(input: Tensor) -> Tensor:
    """The Bessel function of the first kind of order 1."""
    return _j1(input)


def bessel_y0(input: Tensor) -> Tensor:
    """The Bessel function of the second kind of order 0: −∞ at 0, NaN below."""
    return _y0(input)


def bessel_y1(input: Tensor) -> Tensor:
    """The Bessel function of the second kind of order 1: −∞ at 0, NaN below."""
    return _y1(input)


def _spherical(x: Node) -> Node:
    square = ew.square(x)
    series = polynomial(square, (1 / 6227020800, -1 / 39916800, 1 / 362880, -1 / 5040, 1 / 120, -1 / 6, 1.0))
    near = ew.compare("lt", ew.unary("abs", x), _c(x, 0.5))
    plain = ew.div(ew.unary("sin", x), ew.where(near, _c(x, 1), x))
    plain = ew.where(ew.predicate("isinf", x), _c(x, 0), plain)
    return ew.where(near, series, plain)


def _spherical_slope(x: Tensor) -> Tensor:
    near = arithmetic.lt(arithmetic.abs(x), 1e-2)
    safe = arithmetic.where(near, 1.0, x)
    plain = arithmetic.div(arithmetic.sub(arithmetic.cos(safe), arithmetic.div(arithmetic.sin(safe), safe)), safe)
    series = arithmetic.mul(x, arithmetic.sub(arithmetic.div(arithmetic.square(x), 30), 1 / 3))
    return arithmetic.where(near, series, plain)


_spherical_j0 = differentiable(_spherical, _spherical_slope)


def spherical_bessel_j0(input: Tensor) -> Tensor:
    """sin(x) / x: the spherical Bessel function of the first kind of order 0."""
    return _spherical_j0(input)


# -- Airy's function -------------------------------------------------------------------------------------------------

_AIRY_TERMS = 24  # of the power series, which serves |x| < 8.4 to full precision


def airy_ai(input: Tensor) -> Tensor:
    """Airy's function Ai. It has no derivative here."""
    x = floating(detach(node_of(input)))
    negative = ew.compare("lt", x, _c(x, -2.09))
    large = ew.ge(x, _c(x, 2.09))
    root = ew.unary("sqrt", ew.where(ew.or_(negative, large), ew.unary("abs", x), _c(x, 1)))
    size = ew.where(ew.or_(negative, large), ew.unary("abs", x), _c(x, 1))
    zeta = ew.mul(ew.mul(size, root), _c(x, 2 / 3))
    inverse = ew.unary("reciprocal", zeta)
    square = ew.square(inverse)
    scale = ew.div(_c(x, 5.64189583547756286948e-01), ew.unary("sqrt", root))
    angle = ew.add(zeta, _c(x, math.pi / 4))
    f = ew.add(_c(x, 1), ew.mul(square, ew.div(polynomial(square, _AIRY_AFN), polynomial(square, _AIRY_AFD))))
    g = ew.mul(inverse, ew.div(polynomial(square, _AIRY_AGN), polynomial(square, _AIRY_AGD)))
    waves = ew.mul(scale, ew.sub(ew.mul(ew.unary("sin", angle), f), ew.mul(ew.unary("cos", angle), g)))
    ratio = ew.div(polynomial(inverse, _AIRY_AN), polynomial(inverse, _AIRY_AD))
    decay = ew.mul(ew.mul(scale, ratio), ew.mul(_c(x, 0.5), ew.unary("exp", ew.neg(zeta))))
    near = ew.where(ew.or_(negative, large), _c(x, 0), x)
    cube = ew.mul(near, ew.square(near))
    m, n = _c(x, 1), near
    total_f, total_g = m, n
    for k in range(_AIRY_TERMS):
        m = ew.mul(m, ew.mul(cube, _c(x, 1 / ((3 * k + 2) * (3 * k + 3)))))
        n = ew.mul(n, ew.mul(cube, _c(x, 1 / ((3 * k + 3) * (3 * k + 4)))))
        total_f, total_g = ew.add(total_f, m), ew.add(total_g, n)
    series = ew.sub(ew.mul(total_f, _c(x, 0.355028053887817239260)), ew.mul(total_g, _c(x, 0.258819403792806798405)))
    result = ew.where(negative, waves, ew.where(large, decay, series))
    result = ew.where(ew.gt(x, _c(x, 103.892)), _c(x, 0), result)
    bad = ew.unary("not", ew.predicate("isfinite", x))
    return wrap(ew.where(bad, _c(x, math.nan), result))
