"""The words for states, as the source and the contract write them."""

from enum import StrEnum


class NodeStatus(StrEnum):
    ONLINE = "online"
    OFFLINE = "offline"
    ERROR = "error"


class NodeRole(StrEnum):
    CONTROLLER = "controller"
    WORKER = "worker"
    STORAGE = "storage"


class Health(StrEnum):
    """What a node says of itself in a heartbeat."""

    HEALTHY = "healthy"
    DEGRADED = "degraded"
    ERROR = "error"


class ModelSource(StrEnum):
    HUGGINGFACE = "huggingface"
    CUSTOM = "custom"


class Framework(StrEnum):
    PYTORCH = "pytorch"
    TENSORFLOW = "tensorflow"
    ONNX = "onnx"
    SAFETENSORS = "safetensors"
    GGUF = "gguf"
    TRITON = "triton"
    CUSTOM = "custom"


class TaskType(StrEnum):
    ASR = "asr"
    TTS = "tts"
    LLM = "llm"
    CV = "cv"
    NLP = "nlp"
    EMBEDDING = "embedding"
    CUSTOM = "custom"


class DownloadStatus(StrEnum):
    PENDING = "pending"
    DOWNLOADING = "downloading"
    READY = "ready"
    FAILED = "failed"


class Environment(StrEnum):
    DEV = "dev"
    STAGING = "staging"
    PROD = "prod"


class DeploymentType(StrEnum):
    SINGLE = "single"
    DISTRIBUTED = "distributed"


class HardwareProfile(StrEnum):
    CPU = "cpu"
    GPU = "gpu"
    MULTI_GPU = "multi-gpu"


class EngineName(StrEnum):
    VLLM = "vllm"
    TRITON = "triton"
    CUSTOM = "custom"


class Desired(StrEnum):
    RUNNING = "running"
    STOPPED = "stopped"


class DeploymentStatus(StrEnum):
    QUEUED = "queued"
    DEPLOYING = "deploying"
    RUNNING = "running"
    STOPPED = "stopped"
    FAILED = "failed"


class ReplicaState(StrEnum):
    PENDING = "pending"
    PREPARING = "preparing"
    STARTING = "starting"
    RUNNING = "running"
    UNHEALTHY = "unhealthy"
    STOPPING = "stopping"
    STOPPED = "stopped"
    FAILED = "failed"
    LOST = "lost"


class EventSeverity(StrEnum):
    """Of an entry in a deployment's events log."""

    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class Severity(StrEnum):
    """Of a notification."""

    LOW = "low"
    NORMAL = "normal"
    HIGH = "high"
    CRITICAL = "critical"


class AgentStatus(StrEnum):
    ACTIVE = "active"
    INACTIVE = "inactive"
    BUSY = "busy"


class Role(StrEnum):
    UNIVERSE_OWNER = "universe.owner"
    UNIVERSE_EDITOR = "universe.editor"
    UNIVERSE_VIEWER = "universe.viewer"
    ORGANIZATION_OWNER = "organization.owner"
    ORGANIZATION_EDITOR = "organization.editor"
    ORGANIZATION_VIEWER = "organization.viewer"


class PrincipalKind(StrEnum):
    USER = "user"
    NODE = "node"
    AGENT = "agent"
    SERVICE = "service"
