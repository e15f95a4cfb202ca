"""What of torch the source of a net may use: every name is vouched for on its own."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn


def names(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Without those that keep a state from call to call, take functions, or give more than one tensor.
LAYERS = names(
    """
    Identity Linear Bilinear Flatten Unflatten Conv1d Conv2d Conv3d ConvTranspose1d ConvTranspose2d Embedding
    BatchNorm1d BatchNorm2d BatchNorm3d SyncBatchNorm InstanceNorm1d InstanceNorm2d GroupNorm LayerNorm RMSNorm
    LocalResponseNorm CrossMapLRN2d MaxPool1d MaxPool2d MaxPool3d AvgPool1d AvgPool2d AvgPool3d LPPool2d
    AdaptiveAvgPool1d AdaptiveAvgPool2d AdaptiveAvgPool3d AdaptiveMaxPool1d AdaptiveMaxPool2d
    FractionalMaxPool2d Dropout Dropout1d Dropout2d Dropout3d AlphaDropout FeatureAlphaDropout ReLU ReLU6
    LeakyReLU PReLU RReLU ELU SELU CELU GELU SiLU Mish Hardswish Hardsigmoid Hardtanh Hardshrink Softshrink
    Tanhshrink Softplus Softsign Sigmoid LogSigmoid Tanh Threshold GLU Softmax LogSoftmax Softmax2d Softmin
    ZeroPad2d ConstantPad2d ReflectionPad2d ReplicationPad2d CircularPad2d Upsample UpsamplingNearest2d
    UpsamplingBilinear2d PixelShuffle PixelUnshuffle ChannelShuffle Unfold Fold CosineSimilarity
    MultiheadAttention TransformerEncoderLayer LSTM GRU RNN Module Sequential ModuleList ModuleDict
    ParameterList ParameterDict
    """
)
# of torch.nn.functional
FUNCTIONS = names(
    """
    relu relu6 leaky_relu prelu rrelu elu selu celu gelu silu mish hardswish hardsigmoid hardtanh hardshrink
    softshrink tanhshrink softplus softsign sigmoid logsigmoid tanh threshold glu softmax log_softmax softmin
    conv1d conv2d conv3d conv_transpose2d linear bilinear batch_norm instance_norm group_norm layer_norm
    rms_norm local_response_norm normalize max_pool1d max_pool2d max_pool3d avg_pool1d avg_pool2d avg_pool3d
    lp_pool2d adaptive_avg_pool1d adaptive_avg_pool2d adaptive_max_pool1d adaptive_max_pool2d dropout dropout1d
    dropout2d dropout3d alpha_dropout feature_alpha_dropout pad interpolate upsample pixel_shuffle
    pixel_unshuffle channel_shuffle unfold fold grid_sample affine_grid cosine_similarity
    scaled_dot_product_attention embedding
    """
)
# Both of torch and of its tensors; none whose result has a size that depends on the values.
_BOTH = names(
    """
    abs add addcmul addmm all amax amin any argmax argmin atan baddbmm bmm ceil chunk clamp clamp_max clamp_min
    clip concat cos cosh cumsum diff div divide einsum eq erf exp expm1 flatten flip floor floor_divide gather
    ge gt index_select le log log1p log2 log_softmax logical_and logical_not logical_or logsumexp lt masked_fill
    matmul max maximum mean median min minimum mm movedim mul multiply narrow ne neg norm numel permute pow prod
    reciprocal relu reshape roll round rsqrt select sigmoid sign sin sinh softmax split sqrt
    square squeeze std sub subtract sum swapaxes swapdims t tanh tile transpose tril triu true_divide unbind
    unflatten unsqueeze var where
    """
)
TORCH = _BOTH | names(
    """
    max_pool2d adaptive_avg_pool1d
    cat stack hstack vstack dstack outer zeros ones full empty zeros_like ones_like full_like empty_like rand
    randn rand_like randn_like arange linspace eye tensor as_tensor meshgrid broadcast_tensors is_tensor
    channel_shuffle pixel_shuffle dropout conv2d layer_norm batch_norm group_norm cosine_similarity cdist selu
    celu prelu cartesian_prod logspace randint
    """
)
METHODS = _BOTH | names(
    """
    view view_as reshape_as size dim ndimension contiguous expand expand_as repeat detach clone float double
    half bfloat16 long int bool type_as to cuda cpu new_zeros new_ones new_full new_empty new_tensor
    is_contiguous is_floating_point element_size unfold nelement stride type requires_grad_ retain_grad
    is_complex
    """
)
# What changes a tensor in place: while a net is built, never while it answers.
IN_PLACE = names(
    """
    fill_ zero_ normal_ uniform_ copy_ add_ sub_ mul_ div_ clamp_ clamp_min_ clamp_max_ abs_ sqrt_ pow_ exp_
    log_ neg_ erfinv_ trunc_ round_ floor_ ceil_ unsqueeze_ squeeze_ transpose_ t_ masked_fill_ requires_grad_
    bernoulli_ exponential_ detach_ fill_diagonal_ index_fill_ scatter_
    """
)
# Whose settings say how large the result is: they must not come out of the images.
SIZED = names(
    """
    zeros ones full empty rand randn arange linspace logspace eye randint expand repeat tile view reshape narrow roll
    chunk split unfold fold pad interpolate upsample unflatten new_zeros new_ones new_full new_empty
    adaptive_avg_pool1d adaptive_avg_pool2d adaptive_max_pool1d adaptive_max_pool2d
    """
)
# What they give is the text's own, and may be filled entry by entry.
CREATORS = names("zeros ones full empty zeros_like ones_like full_like empty_like new_zeros new_ones new_full clone")
ATTRIBUTES = frozenset({"shape", "ndim", "dtype", "device", "data", "T", "mT", "is_cuda", "requires_grad"})
# of torch.nn.init: the file's weights come afterwards
INITIALISERS = names(
    """
    uniform_ normal_ trunc_normal_ constant_ ones_ zeros_ eye_ dirac_ xavier_uniform_ xavier_normal_
    kaiming_uniform_ kaiming_normal_ orthogonal_ sparse_ uniform normal constant xavier_uniform xavier_normal
    kaiming_uniform kaiming_normal orthogonal
    """
)
DTYPES = names(
    """
    float float16 float32 float64 half double bfloat16 bool uint8 int int32 int64 long int8 short int16
    """
)
# Functions that stand for a layer without weights: what the layer calls its settings, in the function's order.
SITES: Mapping[str, tuple[type[nn.Module], tuple[str, ...]]] = {
    "relu": (nn.ReLU, ()),
    "relu6": (nn.ReLU6, ()),
    "leaky_relu": (nn.LeakyReLU, ("negative_slope",)),
    "elu": (nn.ELU, ("alpha",)),
    "selu": (nn.SELU, ()),
    "celu": (nn.CELU, ("alpha",)),
    "gelu": (nn.GELU, ("approximate",)),
    "silu": (nn.SiLU, ()),
    "mish": (nn.Mish, ()),
    "hardswish": (nn.Hardswish, ()),
    "hardsigmoid": (nn.Hardsigmoid, ()),
    "hardtanh": (nn.Hardtanh, ("min_val", "max_val")),
    "softplus": (nn.Softplus, ("beta", "threshold")),
    "softsign": (nn.Softsign, ()),
    "sigmoid": (nn.Sigmoid, ()),
    "tanh": (nn.Tanh, ()),
    "max_pool2d": (nn.MaxPool2d, ("kernel_size", "stride", "padding", "dilation", "ceil_mode")),
    "avg_pool2d": (nn.AvgPool2d, ("kernel_size", "stride", "padding", "ceil_mode", "count_include_pad")),
    "adaptive_avg_pool2d": (nn.AdaptiveAvgPool2d, ("output_size",)),
    "adaptive_max_pool2d": (nn.AdaptiveMaxPool2d, ("output_size",)),
}
NO_SETTING = frozenset({"inplace", "training"})  # a layer of ours never works in place
