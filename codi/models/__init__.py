"""The networks. Most are built from diffusers and transformers, which import other libraries unasked: broken
ones are left out first.
"""

from codi.libraries import leave_out_broken

leave_out_broken()
