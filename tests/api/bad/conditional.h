typedef int number;
extern number value;
