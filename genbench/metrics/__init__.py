"""Metrics, one family a module. Each is a `genbench.contracts.Metric` that the registry names.

`frechet` has fid, fd, sfid, fid-inf, fid-per-class and mifid; `manifold` precision, recall, density, coverage, realism
and authpct; `kernel` kid and cmmd; `sliced` swd; `inception_score` is; `classification` top1 and top5; `cas` cas;
`alignment` clip-score; `restoration` psnr, ssim, lpips and consistency; `vendi` vendi. What several families need is in
`arguments` (checks before any work), `matching` (features of both sides), `memo` (what was computed last), and outside
of this folder in `gaussians`, `neighbours` and `uncertainty`, which makes every error bar.
"""
