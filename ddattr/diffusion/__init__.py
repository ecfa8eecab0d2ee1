"""One denoiser: the process, its noise, the sampler that replays it, the network."""
