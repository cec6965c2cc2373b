"""From lmms-eval's sample logs to a site where one sees, question by question, what was retrieved and what each method
made of it: `build` writes static pages, `serve` shows them on this machine."""

from comem_lmms.explorer.serving import serve as serve
from comem_lmms.explorer.site import Built as Built
from comem_lmms.explorer.site import build as build
