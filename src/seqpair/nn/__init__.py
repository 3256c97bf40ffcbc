"""The model: from packed token ids to states that the vocabulary projection can take.

Padding never exists here: a microbatch is N packed tokens and a `Layout` that says where each sequence begins.
Direction (causal or bidirectional) is an argument of `forward`, so that an encoder and a decoder are the same class
with the same parameters.

Shape legend, used in every comment and docstring:
    B rows, T positions, N packed tokens, D width, H heads, K head dim, F inner width, V vocabulary,
    S sequences, M predicted positions.
"""
