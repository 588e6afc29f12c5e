typedef struct thing_st {
        gizmo a;
} thing;
