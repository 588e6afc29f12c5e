/* SPDX-License-Identifier: Apache-2.0 */
#ifndef CLEAVE_NVML_TYPES_H
#define CLEAVE_NVML_TYPES_H

/* The types of NVML that nvml.api speaks of, under the field's own names, with the sizes, offsets
 * and values of its ABI (the headers of CUDA 13.0). The generator reads this file, so it keeps to
 * plain typedefs, structs, unions and enums, without conditionals. */

#define NVML_VALUE_NOT_AVAILABLE                       (-1)
#define NVML_DEVICE_PCI_BUS_ID_BUFFER_SIZE             32
#define NVML_DEVICE_PCI_BUS_ID_BUFFER_V2_SIZE          16
#define NVML_DEVICE_PCI_BUS_ID_LEGACY_FMT              "%04X:%02X:%02X.0"
#define NVML_DEVICE_PCI_BUS_ID_FMT                     "%08X:%02X:%02X.0"
#define nvmlMemory_v2                                  ((unsigned int)(sizeof(nvmlMemory_v2_t) | (2 << 24)))
#define NVML_TOPOLOGY_CPU                              NVML_TOPOLOGY_NODE
#define NVML_DEVICE_UUID_ASCII_LEN                     41
#define NVML_DEVICE_UUID_BINARY_LEN                    16
#define nvmlFlagDefault                                0x00
#define nvmlFlagForce                                  0x01
#define NVML_SINGLE_BIT_ECC                            NVML_MEMORY_ERROR_TYPE_CORRECTED
#define NVML_DOUBLE_BIT_ECC                            NVML_MEMORY_ERROR_TYPE_UNCORRECTED
#define NVML_GSP_FIRMWARE_VERSION_BUF_SIZE             0x40
#define NVML_DEVICE_ARCH_KEPLER                        2
#define NVML_DEVICE_ARCH_MAXWELL                       3
#define NVML_DEVICE_ARCH_PASCAL                        4
#define NVML_DEVICE_ARCH_VOLTA                         5
#define NVML_DEVICE_ARCH_TURING                        6
#define NVML_DEVICE_ARCH_AMPERE                        7
#define NVML_DEVICE_ARCH_ADA                           8
#define NVML_DEVICE_ARCH_HOPPER                        9
#define NVML_DEVICE_ARCH_BLACKWELL                     10
#define NVML_DEVICE_ARCH_UNKNOWN                       0xffffffff
#define NVML_BUS_TYPE_UNKNOWN                          0
#define NVML_BUS_TYPE_PCI                              1
#define NVML_BUS_TYPE_PCIE                             2
#define NVML_BUS_TYPE_FPCI                             3
#define NVML_BUS_TYPE_AGP                              4
#define NVML_PCIE_LINK_MAX_SPEED_INVALID               0x00000000
#define NVML_PCIE_LINK_MAX_SPEED_2500MBPS              0x00000001
#define NVML_PCIE_LINK_MAX_SPEED_5000MBPS              0x00000002
#define NVML_PCIE_LINK_MAX_SPEED_8000MBPS              0x00000003
#define NVML_PCIE_LINK_MAX_SPEED_16000MBPS             0x00000004
#define NVML_PCIE_LINK_MAX_SPEED_32000MBPS             0x00000005
#define NVML_PCIE_LINK_MAX_SPEED_64000MBPS             0x00000006
#define NVML_PCIE_ATOMICS_CAP_FETCHADD32               0x01
#define NVML_PCIE_ATOMICS_CAP_FETCHADD64               0x02
#define NVML_PCIE_ATOMICS_CAP_SWAP32                   0x04
#define NVML_PCIE_ATOMICS_CAP_SWAP64                   0x08
#define NVML_PCIE_ATOMICS_CAP_CAS32                    0x10
#define NVML_PCIE_ATOMICS_CAP_CAS64                    0x20
#define NVML_PCIE_ATOMICS_CAP_CAS128                   0x40
#define NVML_PCIE_ATOMICS_OPS_MAX                      7
#define nvmlEventTypeNone                              0x0000000000000000LL
#define nvmlEventTypeSingleBitEccError                 0x0000000000000001LL
#define nvmlEventTypeDoubleBitEccError                 0x0000000000000002LL
#define nvmlEventTypePState                            0x0000000000000004LL
#define nvmlEventTypeXidCriticalError                  0x0000000000000008LL
#define nvmlEventTypeClock                             0x0000000000000010LL
#define nvmlEventTypePowerSourceChange                 0x0000000000000080LL
#define nvmlEventTypeSingleBitEccErrorStorm            0x0000000000000200LL
#define nvmlEventTypeNonFatalPoisonError               0x0000000000001000LL
#define nvmlEventTypeFatalPoisonError                  0x0000000000002000LL
#define nvmlEventTypeGpuUnavailableError               0x0000000000004000LL
#define nvmlEventTypeGpuRecoveryAction                 0x0000000000008000LL
#define nvmlClocksEventReasonGpuIdle                   0x0000000000000001LL
#define nvmlClocksEventReasonApplicationsClocksSetting 0x0000000000000002LL
#define nvmlClocksThrottleReasonUserDefinedClocks      nvmlClocksEventReasonApplicationsClocksSetting
#define nvmlClocksEventReasonSwPowerCap                0x0000000000000004LL
#define nvmlClocksThrottleReasonHwSlowdown             0x0000000000000008LL
#define nvmlClocksEventReasonSyncBoost                 0x0000000000000010LL
#define nvmlClocksEventReasonSwThermalSlowdown         0x0000000000000020LL
#define nvmlClocksThrottleReasonHwThermalSlowdown      0x0000000000000040LL
#define nvmlClocksThrottleReasonHwPowerBrakeSlowdown   0x0000000000000080LL
#define nvmlClocksEventReasonDisplayClockSetting       0x0000000000000100LL
#define nvmlClocksEventReasonNone                      0x0000000000000000LL
#define nvmlClocksEventReasonAll                                                                   \
        (nvmlClocksThrottleReasonNone | nvmlClocksEventReasonGpuIdle |                             \
                nvmlClocksEventReasonApplicationsClocksSetting | nvmlClocksEventReasonSwPowerCap | \
                nvmlClocksThrottleReasonHwSlowdown | nvmlClocksEventReasonSyncBoost |              \
                nvmlClocksEventReasonSwThermalSlowdown |                                           \
                nvmlClocksThrottleReasonHwThermalSlowdown |                                        \
                nvmlClocksThrottleReasonHwPowerBrakeSlowdown |                                     \
                nvmlClocksEventReasonDisplayClockSetting)
#define nvmlClocksThrottleReasonGpuIdle nvmlClocksEventReasonGpuIdle
#define nvmlClocksThrottleReasonApplicationsClocksSetting                                          \
        nvmlClocksEventReasonApplicationsClocksSetting
#define nvmlClocksThrottleReasonSyncBoost           nvmlClocksEventReasonSyncBoost
#define nvmlClocksThrottleReasonSwPowerCap          nvmlClocksEventReasonSwPowerCap
#define nvmlClocksThrottleReasonSwThermalSlowdown   nvmlClocksEventReasonSwThermalSlowdown
#define nvmlClocksThrottleReasonDisplayClockSetting nvmlClocksEventReasonDisplayClockSetting
#define nvmlClocksThrottleReasonNone                nvmlClocksEventReasonNone
#define nvmlClocksThrottleReasonAll                 nvmlClocksEventReasonAll
#define NVML_INIT_FLAG_NO_GPUS                      1
#define NVML_INIT_FLAG_NO_ATTACH                    2
#define NVML_DEVICE_INFOROM_VERSION_BUFFER_SIZE     16
#define NVML_DEVICE_UUID_BUFFER_SIZE                80
#define NVML_DEVICE_UUID_V2_BUFFER_SIZE             96
#define NVML_DEVICE_PART_NUMBER_BUFFER_SIZE         80
#define NVML_SYSTEM_DRIVER_VERSION_BUFFER_SIZE      80
#define NVML_SYSTEM_NVML_VERSION_BUFFER_SIZE        80
#define NVML_DEVICE_NAME_BUFFER_SIZE                64
#define NVML_DEVICE_NAME_V2_BUFFER_SIZE             96
#define NVML_DEVICE_SERIAL_BUFFER_SIZE              30
#define NVML_DEVICE_VBIOS_VERSION_BUFFER_SIZE       32
#define NVML_AFFINITY_SCOPE_NODE                    0
#define NVML_AFFINITY_SCOPE_SOCKET                  1
#define NVML_DEVICE_MIG_DISABLE                     0x0
#define NVML_DEVICE_MIG_ENABLE                      0x1
#define NVML_GPU_INSTANCE_PROFILE_1_SLICE           0x0
#define NVML_GPU_INSTANCE_PROFILE_2_SLICE           0x1
#define NVML_GPU_INSTANCE_PROFILE_3_SLICE           0x2
#define NVML_GPU_INSTANCE_PROFILE_4_SLICE           0x3
#define NVML_GPU_INSTANCE_PROFILE_7_SLICE           0x4
#define NVML_GPU_INSTANCE_PROFILE_8_SLICE           0x5
#define NVML_GPU_INSTANCE_PROFILE_6_SLICE           0x6
#define NVML_GPU_INSTANCE_PROFILE_1_SLICE_REV1      0x7
#define NVML_GPU_INSTANCE_PROFILE_2_SLICE_REV1      0x8
#define NVML_GPU_INSTANCE_PROFILE_1_SLICE_REV2      0x9
#define NVML_GPU_INSTANCE_PROFILE_1_SLICE_GFX       0x0A
#define NVML_GPU_INSTANCE_PROFILE_2_SLICE_GFX       0x0B
#define NVML_GPU_INSTANCE_PROFILE_4_SLICE_GFX       0x0C
#define NVML_GPU_INSTANCE_PROFILE_1_SLICE_NO_ME     0x0D
#define NVML_GPU_INSTANCE_PROFILE_2_SLICE_NO_ME     0x0E
#define NVML_GPU_INSTANCE_PROFILE_1_SLICE_ALL_ME    0x0F
#define NVML_GPU_INSTANCE_PROFILE_2_SLICE_ALL_ME    0x10
#define NVML_GPU_INSTANCE_PROFILE_COUNT             0x11
#define NVML_GPU_INSTANCE_PROFILE_CAPS_P2P          0x1
#define NVML_GPU_INSTANCE_PROFILE_CAPS_GFX          0x2
#define NVML_COMPUTE_INSTANCE_PROFILE_CAPS_GFX      0x1
#define NVML_COMPUTE_INSTANCE_PROFILE_1_SLICE       0x0
#define NVML_COMPUTE_INSTANCE_PROFILE_2_SLICE       0x1
#define NVML_COMPUTE_INSTANCE_PROFILE_3_SLICE       0x2
#define NVML_COMPUTE_INSTANCE_PROFILE_4_SLICE       0x3
#define NVML_COMPUTE_INSTANCE_PROFILE_7_SLICE       0x4
#define NVML_COMPUTE_INSTANCE_PROFILE_8_SLICE       0x5
#define NVML_COMPUTE_INSTANCE_PROFILE_6_SLICE       0x6
#define NVML_COMPUTE_INSTANCE_PROFILE_1_SLICE_REV1  0x7
#define NVML_COMPUTE_INSTANCE_PROFILE_COUNT         0x8
#define NVML_COMPUTE_INSTANCE_ENGINE_PROFILE_SHARED 0x0
#define NVML_COMPUTE_INSTANCE_ENGINE_PROFILE_COUNT  0x1

typedef struct nvmlDevice_st *nvmlDevice_t;
typedef struct nvmlGpuInstance_st *nvmlGpuInstance_t;

typedef struct nvmlPciInfo_st {
        char busIdLegacy[16];
        unsigned int domain;
        unsigned int bus;
        unsigned int device;
        unsigned int pciDeviceId;
        unsigned int pciSubSystemId;
        char busId[32];
} nvmlPciInfo_t;

typedef struct nvmlEccErrorCounts_st {
        unsigned long long l1Cache;
        unsigned long long l2Cache;
        unsigned long long deviceMemory;
        unsigned long long registerFile;
} nvmlEccErrorCounts_t;

typedef struct nvmlUtilization_st {
        unsigned int gpu;
        unsigned int memory;
} nvmlUtilization_t;

typedef struct nvmlMemory_st {
        unsigned long long total;
        unsigned long long free;
        unsigned long long used;
} nvmlMemory_t;

typedef struct nvmlMemory_v2_st {
        unsigned int version;
        unsigned long long total;
        unsigned long long reserved;
        unsigned long long free;
        unsigned long long used;
} nvmlMemory_v2_t;

typedef struct nvmlBAR1Memory_st {
        unsigned long long bar1Total;
        unsigned long long bar1Free;
        unsigned long long bar1Used;
} nvmlBAR1Memory_t;

typedef struct nvmlProcessInfo_v1_st {
        unsigned int pid;
        unsigned long long usedGpuMemory;
} nvmlProcessInfo_v1_t;

typedef struct nvmlProcessInfo_v2_st {
        unsigned int pid;
        unsigned long long usedGpuMemory;
        unsigned int gpuInstanceId;
        unsigned int computeInstanceId;
} nvmlProcessInfo_v2_t;
typedef nvmlProcessInfo_v2_t nvmlProcessInfo_t;

typedef struct nvmlDeviceAttributes_st {
        unsigned int multiprocessorCount;
        unsigned int sharedCopyEngineCount;
        unsigned int sharedDecoderCount;
        unsigned int sharedEncoderCount;
        unsigned int sharedJpegCount;
        unsigned int sharedOfaCount;
        unsigned int gpuInstanceSliceCount;
        unsigned int computeInstanceSliceCount;
        unsigned long long memorySizeMB;
} nvmlDeviceAttributes_t;

typedef struct nvmlRowRemapperHistogramValues_st {
        unsigned int max;
        unsigned int high;
        unsigned int partial;
        unsigned int low;
        unsigned int none;
} nvmlRowRemapperHistogramValues_t;

typedef enum nvmlGpuLevel_enum {
        NVML_TOPOLOGY_INTERNAL = 0,
        NVML_TOPOLOGY_SINGLE = 10,
        NVML_TOPOLOGY_MULTIPLE = 20,
        NVML_TOPOLOGY_HOSTBRIDGE = 30,
        NVML_TOPOLOGY_NODE = 40,
        NVML_TOPOLOGY_SYSTEM = 50
} nvmlGpuTopologyLevel_t;

typedef enum nvmlGpuP2PStatus_enum {
        NVML_P2P_STATUS_OK = 0,
        NVML_P2P_STATUS_CHIPSET_NOT_SUPPORED,
        NVML_P2P_STATUS_CHIPSET_NOT_SUPPORTED = NVML_P2P_STATUS_CHIPSET_NOT_SUPPORED,
        NVML_P2P_STATUS_GPU_NOT_SUPPORTED,
        NVML_P2P_STATUS_IOH_TOPOLOGY_NOT_SUPPORTED,
        NVML_P2P_STATUS_DISABLED_BY_REGKEY,
        NVML_P2P_STATUS_NOT_SUPPORTED,
        NVML_P2P_STATUS_UNKNOWN
} nvmlGpuP2PStatus_t;

typedef enum nvmlGpuP2PCapsIndex_enum {
        NVML_P2P_CAPS_INDEX_READ = 0,
        NVML_P2P_CAPS_INDEX_WRITE = 1,
        NVML_P2P_CAPS_INDEX_NVLINK = 2,
        NVML_P2P_CAPS_INDEX_ATOMICS = 3,
        NVML_P2P_CAPS_INDEX_PCI = 4,
        NVML_P2P_CAPS_INDEX_PROP = NVML_P2P_CAPS_INDEX_PCI,
        NVML_P2P_CAPS_INDEX_UNKNOWN = 5,
} nvmlGpuP2PCapsIndex_t;

typedef enum nvmlSamplingType_enum {
        NVML_TOTAL_POWER_SAMPLES = 0,
        NVML_GPU_UTILIZATION_SAMPLES = 1,
        NVML_MEMORY_UTILIZATION_SAMPLES = 2,
        NVML_ENC_UTILIZATION_SAMPLES = 3,
        NVML_DEC_UTILIZATION_SAMPLES = 4,
        NVML_PROCESSOR_CLK_SAMPLES = 5,
        NVML_MEMORY_CLK_SAMPLES = 6,
        NVML_MODULE_POWER_SAMPLES = 7,
        NVML_JPG_UTILIZATION_SAMPLES = 8,
        NVML_OFA_UTILIZATION_SAMPLES = 9,
        NVML_SAMPLINGTYPE_COUNT
} nvmlSamplingType_t;

typedef enum nvmlPcieUtilCounter_enum {
        NVML_PCIE_UTIL_TX_BYTES = 0,
        NVML_PCIE_UTIL_RX_BYTES = 1,
        NVML_PCIE_UTIL_COUNT
} nvmlPcieUtilCounter_t;

typedef enum nvmlValueType_enum {
        NVML_VALUE_TYPE_DOUBLE = 0,
        NVML_VALUE_TYPE_UNSIGNED_INT = 1,
        NVML_VALUE_TYPE_UNSIGNED_LONG = 2,
        NVML_VALUE_TYPE_UNSIGNED_LONG_LONG = 3,
        NVML_VALUE_TYPE_SIGNED_LONG_LONG = 4,
        NVML_VALUE_TYPE_SIGNED_INT = 5,
        NVML_VALUE_TYPE_UNSIGNED_SHORT = 6,
        NVML_VALUE_TYPE_COUNT
} nvmlValueType_t;

typedef union nvmlValue_st {
        double dVal;
        int siVal;
        unsigned int uiVal;
        unsigned long ulVal;
        unsigned long long ullVal;
        signed long long sllVal;
        unsigned short usVal;
} nvmlValue_t;

typedef struct nvmlSample_st {
        unsigned long long timeStamp;
        nvmlValue_t sampleValue;
} nvmlSample_t;

typedef enum nvmlPerfPolicyType_enum {
        NVML_PERF_POLICY_POWER = 0,
        NVML_PERF_POLICY_THERMAL = 1,
        NVML_PERF_POLICY_SYNC_BOOST = 2,
        NVML_PERF_POLICY_BOARD_LIMIT = 3,
        NVML_PERF_POLICY_LOW_UTILIZATION = 4,
        NVML_PERF_POLICY_RELIABILITY = 5,
        NVML_PERF_POLICY_TOTAL_APP_CLOCKS = 10,
        NVML_PERF_POLICY_TOTAL_BASE_CLOCKS = 11,
        NVML_PERF_POLICY_COUNT
} nvmlPerfPolicyType_t;

typedef struct nvmlViolationTime_st {
        unsigned long long referenceTime;
        unsigned long long violationTime;
} nvmlViolationTime_t;

typedef enum nvmlEnableState_enum {
        NVML_FEATURE_DISABLED = 0,
        NVML_FEATURE_ENABLED = 1
} nvmlEnableState_t;

typedef enum nvmlBrandType_enum {
        NVML_BRAND_UNKNOWN = 0,
        NVML_BRAND_QUADRO = 1,
        NVML_BRAND_TESLA = 2,
        NVML_BRAND_NVS = 3,
        NVML_BRAND_GRID = 4,
        NVML_BRAND_GEFORCE = 5,
        NVML_BRAND_TITAN = 6,
        NVML_BRAND_NVIDIA_VAPPS = 7,
        NVML_BRAND_NVIDIA_VPC = 8,
        NVML_BRAND_NVIDIA_VCS = 9,
        NVML_BRAND_NVIDIA_VWS = 10,
        NVML_BRAND_NVIDIA_CLOUD_GAMING = 11,
        NVML_BRAND_NVIDIA_VGAMING = NVML_BRAND_NVIDIA_CLOUD_GAMING,
        NVML_BRAND_QUADRO_RTX = 12,
        NVML_BRAND_NVIDIA_RTX = 13,
        NVML_BRAND_NVIDIA = 14,
        NVML_BRAND_GEFORCE_RTX = 15,
        NVML_BRAND_TITAN_RTX = 16,
        NVML_BRAND_COUNT = 18,
} nvmlBrandType_t;

typedef enum nvmlTemperatureThresholds_enum {
        NVML_TEMPERATURE_THRESHOLD_SHUTDOWN = 0,
        NVML_TEMPERATURE_THRESHOLD_SLOWDOWN = 1,
        NVML_TEMPERATURE_THRESHOLD_MEM_MAX = 2,
        NVML_TEMPERATURE_THRESHOLD_GPU_MAX = 3,
        NVML_TEMPERATURE_THRESHOLD_ACOUSTIC_MIN = 4,
        NVML_TEMPERATURE_THRESHOLD_ACOUSTIC_CURR = 5,
        NVML_TEMPERATURE_THRESHOLD_ACOUSTIC_MAX = 6,
        NVML_TEMPERATURE_THRESHOLD_GPS_CURR = 7,
        NVML_TEMPERATURE_THRESHOLD_COUNT
} nvmlTemperatureThresholds_t;

typedef enum nvmlTemperatureSensors_enum {
        NVML_TEMPERATURE_GPU = 0,
        NVML_TEMPERATURE_COUNT
} nvmlTemperatureSensors_t;

typedef enum nvmlComputeMode_enum {
        NVML_COMPUTEMODE_DEFAULT = 0,
        NVML_COMPUTEMODE_EXCLUSIVE_THREAD = 1,
        NVML_COMPUTEMODE_PROHIBITED = 2,
        NVML_COMPUTEMODE_EXCLUSIVE_PROCESS = 3,
        NVML_COMPUTEMODE_COUNT
} nvmlComputeMode_t;

typedef enum nvmlMemoryErrorType_enum {
        NVML_MEMORY_ERROR_TYPE_CORRECTED = 0,
        NVML_MEMORY_ERROR_TYPE_UNCORRECTED = 1,
        NVML_MEMORY_ERROR_TYPE_COUNT
} nvmlMemoryErrorType_t;

typedef enum nvmlEccCounterType_enum {
        NVML_VOLATILE_ECC = 0,
        NVML_AGGREGATE_ECC = 1,
        NVML_ECC_COUNTER_TYPE_COUNT
} nvmlEccCounterType_t;

typedef enum nvmlClockType_enum {
        NVML_CLOCK_GRAPHICS = 0,
        NVML_CLOCK_SM = 1,
        NVML_CLOCK_MEM = 2,
        NVML_CLOCK_VIDEO = 3,
        NVML_CLOCK_COUNT
} nvmlClockType_t;

typedef enum nvmlClockId_enum {
        NVML_CLOCK_ID_CURRENT = 0,
        NVML_CLOCK_ID_APP_CLOCK_TARGET = 1,
        NVML_CLOCK_ID_APP_CLOCK_DEFAULT = 2,
        NVML_CLOCK_ID_CUSTOMER_BOOST_MAX = 3,
        NVML_CLOCK_ID_COUNT
} nvmlClockId_t;

typedef enum nvmlPStates_enum {
        NVML_PSTATE_0 = 0,
        NVML_PSTATE_1 = 1,
        NVML_PSTATE_2 = 2,
        NVML_PSTATE_3 = 3,
        NVML_PSTATE_4 = 4,
        NVML_PSTATE_5 = 5,
        NVML_PSTATE_6 = 6,
        NVML_PSTATE_7 = 7,
        NVML_PSTATE_8 = 8,
        NVML_PSTATE_9 = 9,
        NVML_PSTATE_10 = 10,
        NVML_PSTATE_11 = 11,
        NVML_PSTATE_12 = 12,
        NVML_PSTATE_13 = 13,
        NVML_PSTATE_14 = 14,
        NVML_PSTATE_15 = 15,
        NVML_PSTATE_UNKNOWN = 32
} nvmlPstates_t;

typedef enum nvmlReturn_enum {
        NVML_SUCCESS = 0,
        NVML_ERROR_UNINITIALIZED = 1,
        NVML_ERROR_INVALID_ARGUMENT = 2,
        NVML_ERROR_NOT_SUPPORTED = 3,
        NVML_ERROR_NO_PERMISSION = 4,
        NVML_ERROR_ALREADY_INITIALIZED = 5,
        NVML_ERROR_NOT_FOUND = 6,
        NVML_ERROR_INSUFFICIENT_SIZE = 7,
        NVML_ERROR_INSUFFICIENT_POWER = 8,
        NVML_ERROR_DRIVER_NOT_LOADED = 9,
        NVML_ERROR_TIMEOUT = 10,
        NVML_ERROR_IRQ_ISSUE = 11,
        NVML_ERROR_LIBRARY_NOT_FOUND = 12,
        NVML_ERROR_FUNCTION_NOT_FOUND = 13,
        NVML_ERROR_CORRUPTED_INFOROM = 14,
        NVML_ERROR_GPU_IS_LOST = 15,
        NVML_ERROR_RESET_REQUIRED = 16,
        NVML_ERROR_OPERATING_SYSTEM = 17,
        NVML_ERROR_LIB_RM_VERSION_MISMATCH = 18,
        NVML_ERROR_IN_USE = 19,
        NVML_ERROR_MEMORY = 20,
        NVML_ERROR_NO_DATA = 21,
        NVML_ERROR_VGPU_ECC_NOT_SUPPORTED = 22,
        NVML_ERROR_INSUFFICIENT_RESOURCES = 23,
        NVML_ERROR_FREQ_NOT_SUPPORTED = 24,
        NVML_ERROR_ARGUMENT_VERSION_MISMATCH = 25,
        NVML_ERROR_DEPRECATED = 26,
        NVML_ERROR_NOT_READY = 27,
        NVML_ERROR_GPU_NOT_FOUND = 28,
        NVML_ERROR_INVALID_STATE = 29,
        NVML_ERROR_RESET_TYPE_NOT_SUPPORTED = 30,
        NVML_ERROR_UNKNOWN = 999
} nvmlReturn_t;

typedef enum nvmlMemoryLocation_enum {
        NVML_MEMORY_LOCATION_L1_CACHE = 0,
        NVML_MEMORY_LOCATION_L2_CACHE = 1,
        NVML_MEMORY_LOCATION_DRAM = 2,
        NVML_MEMORY_LOCATION_DEVICE_MEMORY = 2,
        NVML_MEMORY_LOCATION_REGISTER_FILE = 3,
        NVML_MEMORY_LOCATION_TEXTURE_MEMORY = 4,
        NVML_MEMORY_LOCATION_TEXTURE_SHM = 5,
        NVML_MEMORY_LOCATION_CBU = 6,
        NVML_MEMORY_LOCATION_SRAM = 7,
        NVML_MEMORY_LOCATION_COUNT
} nvmlMemoryLocation_t;

typedef enum nvmlPageRetirementCause_enum {
        NVML_PAGE_RETIREMENT_CAUSE_MULTIPLE_SINGLE_BIT_ECC_ERRORS = 0,
        NVML_PAGE_RETIREMENT_CAUSE_DOUBLE_BIT_ECC_ERROR = 1,
        NVML_PAGE_RETIREMENT_CAUSE_COUNT
} nvmlPageRetirementCause_t;

typedef enum nvmlRestrictedAPI_enum {
        NVML_RESTRICTED_API_SET_APPLICATION_CLOCKS = 0,
        NVML_RESTRICTED_API_SET_AUTO_BOOSTED_CLOCKS = 1,
        NVML_RESTRICTED_API_COUNT
} nvmlRestrictedAPI_t;

typedef struct nvmlProcessUtilizationSample_st {
        unsigned int pid;
        unsigned long long timeStamp;
        unsigned int smUtil;
        unsigned int memUtil;
        unsigned int encUtil;
        unsigned int decUtil;
} nvmlProcessUtilizationSample_t;

typedef struct {
        unsigned long long timeStamp;
        unsigned int pid;
        unsigned int smUtil;
        unsigned int memUtil;
        unsigned int encUtil;
        unsigned int decUtil;
        unsigned int jpgUtil;
        unsigned int ofaUtil;
} nvmlProcessUtilizationInfo_v1_t;

typedef struct {
        unsigned int version;
        unsigned int processSamplesCount;
        unsigned long long lastSeenTimeStamp;
        nvmlProcessUtilizationInfo_v1_t *procUtilArray;
} nvmlProcessesUtilizationInfo_v1_t;
typedef nvmlProcessesUtilizationInfo_v1_t nvmlProcessesUtilizationInfo_t;

typedef struct {
        unsigned int pid;
        unsigned long long usedGpuMemory;
        unsigned int gpuInstanceId;
        unsigned int computeInstanceId;
        unsigned long long usedGpuCcProtectedMemory;
} nvmlProcessDetail_v1_t;

typedef struct {
        unsigned int version;
        unsigned int mode; /* 0 compute, 1 graphics, 2 MPS */
        unsigned int numProcArrayEntries;
        nvmlProcessDetail_v1_t *procArray;
} nvmlProcessDetailList_v1_t;
typedef nvmlProcessDetailList_v1_t nvmlProcessDetailList_t;

typedef unsigned int nvmlDeviceArchitecture_t;
typedef unsigned int nvmlBusType_t;
typedef unsigned char nvmlPowerScopeType_t;

typedef struct {
        unsigned int version;
        nvmlPowerScopeType_t powerScope;
        unsigned int powerValueMw;
} nvmlPowerValue_v2_t;

typedef struct nvmlFieldValue_st {
        unsigned int fieldId;
        unsigned int scopeId;
        long long timestamp;
        long long latencyUsec;
        nvmlValueType_t valueType;
        nvmlReturn_t nvmlReturn;
        nvmlValue_t value;
} nvmlFieldValue_t;
typedef struct nvmlEventSet_st *nvmlEventSet_t;

typedef struct nvmlEventData_st {
        nvmlDevice_t device;
        unsigned long long eventType;
        unsigned long long eventData;
        unsigned int gpuInstanceId;
        unsigned int computeInstanceId;
} nvmlEventData_t;

typedef struct nvmlAccountingStats_st {
        unsigned int gpuUtilization;
        unsigned int memoryUtilization;
        unsigned long long maxMemoryUsage;
        unsigned long long time;
        unsigned long long startTime;
        unsigned int isRunning;
        unsigned int reserved[5];
} nvmlAccountingStats_t;
typedef unsigned int nvmlAffinityScope_t;

typedef struct nvmlGpuInstancePlacement_st {
        unsigned int start;
        unsigned int size;
} nvmlGpuInstancePlacement_t;

typedef struct nvmlGpuInstanceProfileInfo_st {
        unsigned int id;
        unsigned int isP2pSupported;
        unsigned int sliceCount;
        unsigned int instanceCount;
        unsigned int multiprocessorCount;
        unsigned int copyEngineCount;
        unsigned int decoderCount;
        unsigned int encoderCount;
        unsigned int jpegCount;
        unsigned int ofaCount;
        unsigned long long memorySizeMB;
} nvmlGpuInstanceProfileInfo_t;

typedef struct nvmlGpuInstanceProfileInfo_v2_st {
        unsigned int version;
        unsigned int id;
        unsigned int isP2pSupported;
        unsigned int sliceCount;
        unsigned int instanceCount;
        unsigned int multiprocessorCount;
        unsigned int copyEngineCount;
        unsigned int decoderCount;
        unsigned int encoderCount;
        unsigned int jpegCount;
        unsigned int ofaCount;
        unsigned long long memorySizeMB;
        char name[96];
} nvmlGpuInstanceProfileInfo_v2_t;

typedef struct nvmlGpuInstanceInfo_st {
        nvmlDevice_t device;
        unsigned int id;
        unsigned int profileId;
        nvmlGpuInstancePlacement_t placement;
} nvmlGpuInstanceInfo_t;

typedef struct nvmlComputeInstancePlacement_st {
        unsigned int start;
        unsigned int size;
} nvmlComputeInstancePlacement_t;

typedef struct nvmlComputeInstanceProfileInfo_st {
        unsigned int id;
        unsigned int sliceCount;
        unsigned int instanceCount;
        unsigned int multiprocessorCount;
        unsigned int sharedCopyEngineCount;
        unsigned int sharedDecoderCount;
        unsigned int sharedEncoderCount;
        unsigned int sharedJpegCount;
        unsigned int sharedOfaCount;
} nvmlComputeInstanceProfileInfo_t;

typedef struct nvmlComputeInstanceProfileInfo_v2_st {
        unsigned int version;
        unsigned int id;
        unsigned int sliceCount;
        unsigned int instanceCount;
        unsigned int multiprocessorCount;
        unsigned int sharedCopyEngineCount;
        unsigned int sharedDecoderCount;
        unsigned int sharedEncoderCount;
        unsigned int sharedJpegCount;
        unsigned int sharedOfaCount;
        char name[96];
} nvmlComputeInstanceProfileInfo_v2_t;

typedef struct nvmlComputeInstanceInfo_st {
        nvmlDevice_t device;
        nvmlGpuInstance_t gpuInstance;
        unsigned int id;
        unsigned int profileId;
        nvmlComputeInstancePlacement_t placement;
} nvmlComputeInstanceInfo_t;
typedef struct nvmlComputeInstance_st *nvmlComputeInstance_t;

#endif
