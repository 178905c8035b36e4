"""The programs of cluster DNS: kubedns, the keeper of dnsmasq, healthz, and the older form of all this in etcd."""
