"""`fp.linalg`: matrix functions by the names of torch.linalg. Decompositions call LAPACK through NumPy."""

from firepot.ops.host import LinAlgError as LinAlgError
from firepot.ops.linalg.decompositions import cholesky as cholesky
from firepot.ops.linalg.decompositions import cholesky_ex as cholesky_ex
from firepot.ops.linalg.decompositions import eig as eig
from firepot.ops.linalg.decompositions import eigh as eigh
from firepot.ops.linalg.decompositions import eigvals as eigvals
from firepot.ops.linalg.decompositions import eigvalsh as eigvalsh
from firepot.ops.linalg.decompositions import householder_product as householder_product
from firepot.ops.linalg.decompositions import lu as lu
from firepot.ops.linalg.decompositions import lu_factor as lu_factor
from firepot.ops.linalg.decompositions import lu_factor_ex as lu_factor_ex
from firepot.ops.linalg.decompositions import qr as qr
from firepot.ops.linalg.decompositions import svd as svd
from firepot.ops.linalg.decompositions import svdvals as svdvals
from firepot.ops.linalg.norms import *  # noqa: F403
from firepot.ops.linalg.solving import det as det
from firepot.ops.linalg.solving import inv as inv
from firepot.ops.linalg.solving import inv_ex as inv_ex
from firepot.ops.linalg.solving import lstsq as lstsq
from firepot.ops.linalg.solving import lu_solve as lu_solve
from firepot.ops.linalg.solving import matrix_exp as matrix_exp
from firepot.ops.linalg.solving import matrix_rank as matrix_rank
from firepot.ops.linalg.solving import multi_dot as multi_dot
from firepot.ops.linalg.solving import pinv as pinv
from firepot.ops.linalg.solving import slogdet as slogdet
from firepot.ops.linalg.solving import solve as solve
from firepot.ops.linalg.solving import solve_ex as solve_ex
from firepot.ops.linalg.solving import solve_triangular as solve_triangular
from firepot.ops.linalg.solving import tensorinv as tensorinv
from firepot.ops.linalg.solving import tensorsolve as tensorsolve
from firepot.ops.linalg.symmetric import ldl_factor as ldl_factor
from firepot.ops.linalg.symmetric import ldl_factor_ex as ldl_factor_ex
from firepot.ops.linalg.symmetric import ldl_solve as ldl_solve
