"""The selective scan of Mamba (Gu and Dao 2023, arXiv 2312.00752, eq. 2 and algorithm 2).

For every channel d and state s of a sequence, with x_t the input of channel d:

    h_t[d, s] = exp(delta_t[d] A[d, s]) h_{t-1}[d, s] + delta_t[d] B_t[s] u_t[d]
    y_t[d]    = sum_s C_t[s] h_t[d, s] + D[d] u_t[d],    times silu(z_t[d]) where there is a gate z.

Names, order and layouts of the arguments are mamba-ssm's.
"""
