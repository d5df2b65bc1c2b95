"""The parts of policies: encoder, decoder, action heads. Pure torch, usable without Ray."""
