// cuDNN 9 has lost the recurrent interface that Jittor 1.3.11 compiles against. Here its functions answer that they are
// not supported, so that Jittor's sources compile; convolutions are cuDNN's own.
#pragma once
#include <shadowed/cudnn.h>
#if CUDNN_MAJOR >= 9
#define JBOAT_NOT_SUPPORTED(name) \
    template <class... Arguments> inline cudnnStatus_t name(Arguments&&...) { return CUDNN_STATUS_NOT_SUPPORTED; }
JBOAT_NOT_SUPPORTED(cudnnSetRNNDescriptor_v6)
JBOAT_NOT_SUPPORTED(cudnnGetRNNParamsSize)
JBOAT_NOT_SUPPORTED(cudnnGetRNNWorkspaceSize)
JBOAT_NOT_SUPPORTED(cudnnGetRNNTrainingReserveSize)
JBOAT_NOT_SUPPORTED(cudnnGetRNNLinLayerMatrixParams)
JBOAT_NOT_SUPPORTED(cudnnGetRNNLinLayerBiasParams)
JBOAT_NOT_SUPPORTED(cudnnRNNForwardInference)
JBOAT_NOT_SUPPORTED(cudnnRNNForwardTraining)
JBOAT_NOT_SUPPORTED(cudnnRNNBackwardData)
JBOAT_NOT_SUPPORTED(cudnnRNNBackwardWeights)
#undef JBOAT_NOT_SUPPORTED
#endif
