"""Functional transforms: functions from functions to functions, with torch.func's names. They nest in any order."""

from firepot.func.checkpointing import checkpoint as checkpoint
from firepot.func.control import cond as cond
from firepot.func.control import map as map
from firepot.func.control import scan as scan
from firepot.func.control import while_loop as while_loop
from firepot.func.custom import custom_vjp as custom_vjp
from firepot.func.gradient import grad as grad
from firepot.func.gradient import grad_and_value as grad_and_value
from firepot.func.gradient import jvp as jvp
from firepot.func.gradient import linearize as linearize
from firepot.func.gradient import value_and_grad as value_and_grad
from firepot.func.gradient import vjp as vjp
from firepot.func.jacobian import hessian as hessian
from firepot.func.jacobian import jacfwd as jacfwd
from firepot.func.jacobian import jacobian as jacobian
from firepot.func.jacobian import jacrev as jacrev
from firepot.func.modules import functional_call as functional_call
from firepot.func.modules import stack_module_state as stack_module_state
from firepot.func.vectorise import vmap as vmap
