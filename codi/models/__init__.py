"""The networks: autoencoders, prompt towers, denoisers, and the released model's variants of them.

Most are built from diffusers and transformers, which import other libraries unasked. Libraries that do not
load are therefore left out before anything else is imported.
"""

from codi.libraries import leave_out_broken

leave_out_broken()
